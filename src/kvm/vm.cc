#include "kvm/vm.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/log.h"
#include "kvm/cpuid.h"

namespace rf::kvm {

namespace {

// The tiny slot, in the last page of the private range.
constexpr Phys kTinyPage = GuestMemory::kSize - kPageSize;
// Pages in quarantine are worth dropping every shadow for when they are this many, or as many as are in use.
constexpr u64 kQuarantineLimit = 1024;
// KVM's own limit on shadow pages follows from the size of the slots, and ours are small.
constexpr u64 kShadowPages = 64 << 10;

struct Needed {
  int cap;
  int least;
  const char* name;
};
constexpr Needed kNeeded[] = {
    {KVM_CAP_USER_MEMORY, 1, "user memory slots"},
    {KVM_CAP_SYNC_REGS, KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS, "synchronised registers"},
    {KVM_CAP_IMMEDIATE_EXIT, 1, "immediate exit"},
    {KVM_CAP_XSAVE, 1, "XSAVE state"},
    {KVM_CAP_XCRS, 1, "XCR registers"},
    {KVM_CAP_NR_MEMSLOTS, 16384, "enough memory slots"},
};

}  // namespace

Setup<hostio::HostFd> open_kvm() {
  hostio::HostFd fd(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!fd.valid()) {
    switch (errno) {
      case ENOENT:
        return setup_error(
            "there is no /dev/kvm: load the module (modprobe kvm_intel or kvm_amd) and see that virtualization is "
            "enabled in the firmware, or, in a virtual machine, that nested virtualization is");
      case EACCES:
      case EPERM:
        return setup_error(
            "no permission to open /dev/kvm: add yourself to its group (sudo usermod -aG kvm $USER, then log in "
            "again), or ask for access to the device in your container");
      case ENODEV:
      case ENXIO:
        return setup_error(
            "/dev/kvm is there but no KVM is behind it: the CPU or the virtual machine offers no virtualization");
      default:
        return setup_error(fmt::format("cannot open /dev/kvm: {}", errno_text(errno)));
    }
  }
  int version = ioctl(fd.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION)
    return setup_error(
        fmt::format("/dev/kvm speaks API version {}, not {}: this is not Linux's KVM", version, KVM_API_VERSION));
  for (const Needed& n : kNeeded) {
    int have = ioctl(fd.get(), KVM_CHECK_EXTENSION, n.cap);
    bool enough = n.cap == KVM_CAP_SYNC_REGS ? (have & n.least) == n.least : have >= n.least;
    if (!enough)
      return setup_error(fmt::format("this host's KVM lacks {} (capability {}): a newer Linux is needed, 4.17 or later",
                                     n.name, n.cap));
  }
  return fd;
}

Setup<std::unique_ptr<Vm>> Vm::create(GuestMemory& memory) {
  std::unique_ptr<Vm> vm(new Vm(memory));
  vm->kvm_ = TRY(open_kvm());
  int fd;
  do fd = ioctl(vm->kvm_.get(), KVM_CREATE_VM, 0);
  while (fd < 0 && errno == EINTR);
  if (fd < 0)
    return setup_error(fmt::format("KVM cannot create a virtual machine: {}{}", errno_text(errno),
                                   errno == EBUSY ? "; another hypervisor holds the CPU's virtualization" : ""));
  vm->vm_ = hostio::HostFd(fd);
  // Only a limit, and only with shadow paging: a KVM without the call has its own.
  ioctl(fd, KVM_SET_NR_MMU_PAGES, kShadowPages);
  vm->cpuid_ = TRY(guest_cpuid(vm->kvm_.get()));
  void* p = mmap(nullptr, kPrivateSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return setup_error(fmt::format("cannot reserve memory for page tables: {}", errno_text(errno)));
  vm->private_base_ = static_cast<std::byte*>(p);
  mprotect(vm->host_page(kTinyPage), kPageSize, PROT_READ | PROT_WRITE);
  auto slots = vm->set_slot(kTinySlot, kTinyPage, kPageSize, vm->host_page(kTinyPage));
  if (slots) slots = vm->add_private_chunk();
  if (!slots) return setup_error(fmt::format("KVM refuses a memory slot: {}", errno_text(errno_value(slots.error()))));
  return vm;
}

Vm::~Vm() {
  vm_.reset();
  if (private_base_) munmap(private_base_, kPrivateSize);
}

Result<void> Vm::set_slot(u32 slot, Phys p, u64 len, void* host) {
  kvm_userspace_memory_region r{};
  r.slot = slot;
  r.guest_phys_addr = p;
  r.memory_size = len;
  r.userspace_addr = reinterpret_cast<u64>(host);
  TRY(host_result(ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &r)));
  return {};
}

Result<void> Vm::add_memory_slot(u64 index) {
  SpinGuard guard(slot_lock_);
  if (slot_ready_[index].load(std::memory_order_relaxed)) return {};
  Phys p = index << kSlotShift;
  u64 len = std::min(u64{1} << kSlotShift, GuestMemory::kWindowEnd - p);
  // What the file does not cover yet, or no host file is mapped at, may be in a slot: a touch would fail then.
  if (!set_slot(static_cast<u32>(index), p, len, memory_.host_ptr(p))) return err(ENOMEM);
  slot_ready_[index].store(true, std::memory_order_release);
  return {};
}

Result<void> Vm::require_all() {
  TRY(set_slot(0, 0, GuestMemory::kWindowEnd, memory_.base()));
  for (auto& ready : slot_ready_) ready.store(true, std::memory_order_relaxed);
  return {};
}

// Called with page_lock_ held (or before anybody else knows the VM).
Result<void> Vm::add_private_chunk() {
  Phys p = kPrivateBase + private_chunks_ * kPrivateChunk;
  if (p + kPrivateChunk > kUnbackedPage) return err(ENOMEM);
  if (mprotect(host_page(p), kPrivateChunk, PROT_READ | PROT_WRITE) != 0) return err(ENOMEM);
  TRY(set_slot(static_cast<u32>(kPrivateSlot0 + private_chunks_), p, kPrivateChunk, host_page(p)));
  ++private_chunks_;
  return {};
}

Result<Phys> Vm::allocate_page() {
  Phys p;
  bool dirty = true;
  {
    SpinGuard guard(page_lock_);
    if (!free_pages_.empty()) {
      p = free_pages_.back();
      free_pages_.pop_back();
    } else {
      if (next_page_ == kPrivateBase + private_chunks_ * kPrivateChunk) TRY(add_private_chunk());
      p = next_page_;
      next_page_ += kPageSize;
      dirty = false;
    }
    ++pages_in_use_;
  }
  counters.tables_allocated.fetch_add(1, std::memory_order_relaxed);
  if (dirty) std::memset(host_page(p), 0, kPageSize);
  return p;
}

void Vm::free_pages(const std::vector<Phys>& pages) {
  bool drop = false;
  {
    SpinGuard guard(page_lock_);
    auto& where = kind_.shadow_paging ? quarantine_ : free_pages_;
    where.insert(where.end(), pages.begin(), pages.end());
    pages_in_use_ -= pages.size();
    drop = quarantine_.size() >= std::max(kQuarantineLimit, pages_in_use_);
  }
  if (drop) drop_all_shadows();
}

void Vm::drop_all_shadows() {
  // Pages that enter quarantine while the shadows are being dropped have to wait for the next time.
  std::vector<Phys> pages;
  {
    SpinGuard guard(page_lock_);
    pages.swap(quarantine_);
  }
  {
    SpinGuard guard(slot_lock_);
    // Deleting any slot makes KVM drop all shadow pages (KVM_X86_QUIRK_SLOT_ZAP_ALL, on unless disabled); a
    // slot of one page makes it cheap.
    auto removed = set_slot(kTinySlot, kTinyPage, 0, host_page(kTinyPage));
    RF_CHECK(removed.has_value(), "KVM refused to delete a memory slot");
    auto added = set_slot(kTinySlot, kTinyPage, kPageSize, host_page(kTinyPage));
    RF_CHECK(added.has_value(), "KVM refused to add a memory slot back");
  }
  counters.shadow_drops.fetch_add(1, std::memory_order_relaxed);
  SpinGuard guard(page_lock_);
  free_pages_.insert(free_pages_.end(), pages.begin(), pages.end());
}

}  // namespace rf::kvm
