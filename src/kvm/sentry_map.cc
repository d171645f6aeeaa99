#include "kvm/sentry_map.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "hostio/calls.h"

namespace rf::kvm {

namespace {

constexpr u64 kPresent = 1, kWritable = 2, kLarge = 1 << 7, kGlobal = 1 << 8;
constexpr u64 kAccessed = 1 << 5, kDirty = 1 << 6;
constexpr u64 kNoExec = u64{1} << 63;
constexpr u64 kAddress = 0x000f'ffff'ffff'f000;
// No user bit anywhere above a sentry page: ring 3 reaches none of them.
constexpr u64 kTable = kPresent | kWritable | kAccessed;
constexpr u64 kPage = kPresent | kAccessed | kDirty | kGlobal;

constexpr u64 kSentryBase = GuestMemory::kSize;  // guest-physical
constexpr u64 kTaskSize = 0x7fff'ffff'f000;      // the host lets nobody's memory begin above

u64 load(const u64& entry) { return std::atomic_ref(const_cast<u64&>(entry)).load(std::memory_order_acquire); }
void store(u64& entry, u64 v) { std::atomic_ref(entry).store(v, std::memory_order_release); }
constexpr u64 index_of(u64 va, int level) { return (va >> (kPageShift + 9 * level)) & 511; }

u64 take_hex(const char*& p) {
  u64 v = 0;
  for (;; ++p) {
    const char c = *p;
    if (c >= '0' && c <= '9')
      v = v << 4 | static_cast<u64>(c - '0');
    else if (c >= 'a' && c <= 'f')
      v = v << 4 | static_cast<u64>(c - 'a' + 10);
    else
      return v;
  }
}

}  // namespace

Setup<std::unique_ptr<SentryMap>> SentryMap::create(Vm& vm, bool large) {
  std::unique_ptr<SentryMap> s(new SentryMap(vm, large));
  s->maps_ = hostio::HostFd(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
  if (!s->maps_.valid()) return setup_error(fmt::format("cannot open /proc/self/maps: {}", errno_text(errno)));
  void* p = mmap(nullptr, kTablesSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return setup_error(fmt::format("no memory for the sentry's page tables: {}", errno_text(errno)));
  s->tables_ = static_cast<std::byte*>(p);
  s->chunks_[0] = reinterpret_cast<u64>(p);
  if (!vm.add_slot(Vm::kFirstExtraSlot, kSentryBase, kTablesSize, p))
    return setup_error(fmt::format("KVM refuses a memory slot: {}", errno_text(errno)));
  s->root_ = s->new_table();
  for (Phys& upper : s->uppers_) upper = s->new_table();
  s->add_to(s->table(s->root_));
  return s;
}

SentryMap::~SentryMap() {
  if (tables_) munmap(tables_, kTablesSize);
}

void SentryMap::add_to(u64* top_level) const {
  for (u64 i = 0; i < kTopCount; ++i) store(top_level[kTopFirst + i], uppers_[i] | kTable);
}

u64* SentryMap::table(Phys p) const { return reinterpret_cast<u64*>(tables_ + (p - kSentryBase)); }

// 0 when there is none left.
Phys SentryMap::new_table() {
  if (tables_used_ == kTablesSize) return 0;
  const Phys p = kSentryBase + tables_used_;
  tables_used_ += kPageSize;
  return p;
}

u64* SentryMap::table_below(u64& entry) {
  u64 v = load(entry);
  if (!(v & kPresent) || (v & kLarge)) {
    const Phys p = new_table();
    if (p == 0) return nullptr;
    v = p | kTable;
    store(entry, v);
  }
  return table(v & kAddress);
}

// --- What the host has mapped -----------------------------------------------------------------------

// A line of /proc/self/maps: "start-end rwxp ...".
bool SentryMap::scan(const char* line, u64 va, Mapping& m) const {
  m.start = take_hex(line);
  if (*line++ != '-') return false;
  m.end = take_hex(line);
  if (*line++ != ' ' || va < m.start || va >= m.end) return false;
  m.read = line[0] == 'r', m.write = line[1] == 'w', m.exec = line[2] == 'x';
  return true;
}

bool SentryMap::find_mapping(u64 va, Mapping& m) {
  if (!hostio::host_call(SYS_lseek, maps_.get(), 0, SEEK_SET)) return false;
  size_t have = 0;
  for (;;) {
    const auto n = hostio::host_call(SYS_read, maps_.get(), text_.data() + have, text_.size() - 1 - have);
    if (!n || *n == 0) return false;
    have += *n;
    char* line = text_.data();
    char* const end = line + have;
    for (;;) {
      char* newline = static_cast<char*>(std::memchr(line, '\n', static_cast<size_t>(end - line)));
      if (!newline) break;
      *newline = '\0';
      if (scan(line, va, m)) return true;
      line = newline + 1;
    }
    have = static_cast<size_t>(end - line);
    std::memmove(text_.data(), line, have);
  }
}

// --- Entries ------------------------------------------------------------------------------------------

bool SentryMap::require_chunk(u64 va, Phys& p) {
  const u64 start = va >> kChunkShift << kChunkShift;
  u64 i = 1;
  while (i < chunks_used_ && chunks_[i] != start) ++i;
  p = kSentryBase + (i << kChunkShift) + (va - start);
  if (i < chunks_used_) return true;
  if (i == kChunks) return false;
  const u64 len = std::min(u64{1} << kChunkShift, kTaskSize - start);
  if (!vm_.add_slot(Vm::kFirstExtraSlot + static_cast<u32>(i), kSentryBase + (i << kChunkShift), len,
                    reinterpret_cast<void*>(start)))
    return false;
  chunks_[i] = start;
  ++chunks_used_;
  return true;
}

// All of it may be written: where a host file is mapped read-only, the host's tables say so.
bool SentryMap::map_guest_memory(u64 va) {
  constexpr u64 kRights = kPage | kLarge | kWritable | kNoExec;
  const u64 base = reinterpret_cast<u64>(vm_.memory().base());
  u64& upper = table(uppers_[index_of(va, 3) - kTopFirst])[index_of(va, 2)];
  if (large_) {
    const u64 mask = (u64{1} << 30) - 1;
    store(upper, ((va & ~mask) - base) | kRights);
    return true;
  }
  u64* directory = table_below(upper);
  if (!directory) return false;
  store(directory[index_of(va, 1)], ((va & ~(kHugePageSize - 1)) - base) | kRights);
  return true;
}

void SentryMap::fill(u64& directory, u64 va, Phys p, const Mapping& m) {
  const u64 rights = kPage | (m.write ? kWritable : 0) | (m.exec ? 0 : kNoExec);
  const u64 block = va & ~(kHugePageSize - 1);
  const u64 first = std::max(block, m.start), last = std::min(block + kHugePageSize, m.end);
  const u64 old = load(directory);
  if (last - first == kHugePageSize && (!(old & kPresent) || (old & kLarge))) {
    store(directory, (p - (va - block)) | rights | kLarge);
    return;
  }
  u64* leaf = table_below(directory);
  if (!leaf) return;
  for (u64 at = first; at < last; at += kPageSize) store(leaf[index_of(at, 0)], (p + at - va) | rights);
}

bool SentryMap::map_in(u64 va, Access access) {
  if (va < platform::kGuestAddressLimit || va >= kTaskSize) return false;
  va &= ~kPageMask;
  SpinGuard guard(lock_);
  map_ins.fetch_add(1, std::memory_order_relaxed);
  const u64 base = reinterpret_cast<u64>(vm_.memory().base());
  if (va >= base && va < base + GuestMemory::kWindowEnd) return access != Access::kExec && map_guest_memory(va);
  Mapping m;
  if (!find_mapping(va, m) || !m.read) return false;
  if ((access == Access::kWrite && !m.write) || (access == Access::kExec && !m.exec)) return false;
  Phys p;
  if (!require_chunk(va, p)) return false;
  u64* directory = table_below(table(uppers_[index_of(va, 3) - kTopFirst])[index_of(va, 2)]);
  if (!directory) return false;
  fill(directory[index_of(va, 1)], va, p, m);
  return true;
}

bool SentryMap::map_range(u64 va, u64 len) {
  for (u64 at = va & ~kPageMask; at < va + len; at = (at & ~(kHugePageSize - 1)) + kHugePageSize)
    if (!map_in(at, Access::kRead)) return false;
  return true;
}

u64 SentryMap::host_address(Phys p) const {
  if (p < kSentryBase) return p < GuestMemory::kWindowEnd ? reinterpret_cast<u64>(vm_.memory().host_ptr(p)) : 0;
  const u64 i = (p - kSentryBase) >> kChunkShift;
  if (i >= kChunks || chunks_[i] == 0) return 0;
  return chunks_[i] + ((p - kSentryBase) & ((u64{1} << kChunkShift) - 1));
}

}  // namespace rf::kvm
