// The interface between the sentry and a way to run guest code. Nothing above it knows which platform runs.
#pragma once

#include <sys/user.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/types.h"
#include "platform/guest_memory.h"

namespace rf::platform {

// Guest addresses are below this; the sentry and its platforms use what is above.
inline constexpr u64 kGuestAddressLimit = 0x7000'0000'0000;

// General registers, in the layout ptrace(2) and core dumps use. cs, ss, ds, es, fs and gs are informative:
// a platform runs 64-bit user code segments whatever they say. Platforms sanitise eflags.
using Registers = user_regs_struct;

enum class Access : u8 { kNone = 0, kRead = 1, kWrite = 2, kExec = 4 };
struct Prot {
  bool read = false, write = false, exec = false;
  bool operator==(const Prot&) const = default;
  bool any() const { return read || write || exec; }
};

// Why guest code stopped. Registers are complete and hold the guest's state in every case.
struct Exit {
  enum class Kind : u8 {
    kSyscall,      // SYSCALL at rip-2; number in rax (also copied to orig_rax), rcx and r11 as the CPU left them
    kPageFault,    // address, access, present
    kException,    // any other: signo, code, address as Linux would put them in siginfo; vector, error
    kInterrupted,  // Context::interrupt(), or the worker was kicked: the caller looks at both
  };
  Kind kind = Kind::kInterrupted;
  // kPageFault: what the access was, and whether a page was mapped (a protection fault) or not.
  Access access = Access::kNone;
  bool present = false;
  u8 vector = 0;    // x86 exception number
  int signo = 0;    // kException
  int code = 0;     // kException: si_code
  u64 address = 0;  // fault address, or the instruction's
  u64 error = 0;    // x86 error code
};

// Ranges whose narrowing has not yet taken effect, collected so that their invalidation is done once. The
// pages must not be reused before AddressSpace::commit().
struct Invalidation {
  struct Range {
    u64 va;
    Phys phys;
    u64 len;
  };
  std::vector<Range> ranges;  // coalesced where contiguous in both
  bool empty() const { return ranges.empty(); }
};

// A guest address space. Not thread-safe for changes: mm serialises them (page-table lock held exclusively);
// guest code and lookup() under the shared lock may run meanwhile. All addresses and lengths are multiples of
// the page size and below kGuestAddressLimit. No call here suspends.
class AddressSpace {
 public:
  virtual ~AddressSpace() = default;

  struct Mapping {
    Phys phys = kNoPhys;  // of the address asked for, not page-aligned
    Prot prot;
    bool present() const { return phys != kNoPhys; }
  };

  // Maps [va, va+len) to [phys, phys+len). Replaces nothing: pages that are present with another phys or
  // wider rights must be unmapped first; widening rights on the same phys is allowed. ENOMEM: no memory for tables.
  virtual Result<void> map(u64 va, Phys phys, u64 len, Prot prot) = 0;
  // Remove, or set the rights of, what is present in [va, va+len). Takes full effect at commit(); adds
  // to `inval` what needs invalidation.
  virtual void unmap(u64 va, u64 len, Invalidation& inval) = 0;
  virtual void protect(u64 va, u64 len, Prot prot, Invalidation& inval) = 0;
  // After it returns no guest code, on any vCPU, uses a narrowed or removed mapping. Clears `inval`.
  virtual void commit(Invalidation& inval) = 0;

  // Guest code will never run in this space again (its last user is gone): what is unmapped from here on needs no
  // invalidation, and commit() is free. What is left to do is to unmap, or to destroy it.
  virtual void retire() {}

  // Takes what guest code needs of the host to run in this space; without it, the first run() does. EAGAIN: the host,
  // or the sandbox, has no more.
  virtual Result<void> reserve() { return {}; }

  // Whether guest code sees what map() maps no sooner than at a fault or at commit(): a page may then be unmapped,
  // mapped anew and committed once.
  virtual bool maps_lazily() const { return false; }

  // For a platform that puts pages of its own among the guest's. `vacant` tells whether the guest has no mapping in a
  // range; false, too, when that cannot be told without suspending. occupy() is called, under the lock that serialises
  // changes of mappings, when a range is one no longer.
  virtual void set_vacancy_test(std::function<bool(u64 va, u64 len)> vacant) { (void)vacant; }
  virtual void occupy(u64 va, u64 len) { (void)va, (void)len; }

  // What is mapped at va. Cheap: tens of nanoseconds.
  virtual Mapping lookup(u64 va) const = 0;
  // Calls f(va, phys, len, prot) for the present ranges within [va, va+len), in order. None crosses from one chunk of
  // the file window (GuestMemory::kWindowChunk) to the next: references are counted by chunk.
  virtual void for_each(u64 va, u64 len, const std::function<void(u64, Phys, u64, Prot)>& f) const = 0;
};

// What runs one guest thread: its vector state, and the door to the vCPUs. Used by one fiber at a time, except
// interrupt().
class Context {
 public:
  virtual ~Context() = default;

  // Runs guest code in `as` until it stops. Called on a worker's fiber, between Worker::enter_guest()
  // and leave_guest() (made by the platform itself). Does not suspend. When enter_guest() asks to yield, or an
  // interrupt is pending, returns kInterrupted without running anything.
  virtual Exit run(AddressSpace& as, Registers& regs) = 0;

  // Makes the run() in progress, or the next one, return kInterrupted soon. Any thread.
  virtual void interrupt() = 0;
  // The guest thread has become another program: the next run() is in another address space. `same_rights`: the new
  // program may do no more than the old one, which may read all of it, so what is left of the old one may stay near.
  virtual void become_program(bool same_rights) { (void)same_rights; }
  // The guest thread is about to end: what run() returns from here on matters no more. Any thread.
  virtual void discard() {}

  // The vector state, in the XSAVE standard (non-compacted) format, fp_size() bytes. Only while not running.
  virtual void save_fp(std::span<std::byte> out) = 0;
  // EINVAL if `in` is not a state the CPU would accept (reserved MXCSR or XSTATE_BV bits, wrong size).
  virtual Result<void> load_fp(std::span<const std::byte> in) = 0;
  virtual void reset_fp() = 0;
  virtual void copy_fp_from(Context& other) = 0;  // of the same platform; `other` is not running
};

struct Capabilities {
  std::string name;                 // "kvm", "trap"
  std::string description;          // one line for doctor and logs: "software KVM (ring 0 interpreted), exit mode"
  size_t fp_size = 0;               // bytes of XSAVE state
  u64 xcr0 = 0;                     // features in it
  bool fsgsbase = false;            // guest may use RDFSBASE and friends (AT_HWCAP2 bit 1)
  bool cpu_in_tsc_aux = false;      // RDTSCP and RDPID tell the guest the number of its vCPU
  bool host_tsc = false;            // RDTSC in a guest reads the host's counter, on every vCPU: a vDSO may rely on it
  bool direct_user_access = false;  // the sentry can reach guest addresses itself
  bool small_rings = false;         // the sentry can only reach rings of one page (RingOptions::one_page)
  bool child_processes = false;     // the sentry has some, which end with it
  std::vector<u64> host_ioctls;     // those that it makes while guests run: the sentry's lockdown lets them through
};

// Counters for --stats and benches, since start; values may lag a little.
struct PlatformStats {
  u64 syscalls = 0, page_faults = 0, exceptions = 0, interrupts = 0;
  std::vector<std::pair<std::string, u64>> details;  // platform's own: "vm exits", "invalidations"
  std::vector<std::pair<std::string, u64>> exits;    // of the virtual CPUs, by reason, in the host's words
  bool counts_host_calls = false;                    // where the platform sees those that the sentry makes
  std::vector<std::pair<u64, u64>> host_calls;       // number, count
  u64 host_cycles = 0;                               // spent in them and around them
};

class Platform {
 public:
  virtual ~Platform() = default;
  virtual const Capabilities& capabilities() const = 0;
  virtual Result<std::unique_ptr<AddressSpace>> create_address_space() = 0;
  virtual Result<std::unique_ptr<Context>> create_context() = 0;
  virtual PlatformStats stats() const = 0;

  // SchedulerOptions::run_loop and leave_fiber, for a scheduler whose workers run guests: a platform may have the
  // sentry run elsewhere than in the host.
  virtual void run_loop(u32 worker, const std::function<void()>& loop) { (void)worker, loop(); }
  virtual void (*leave_fiber() const)() { return nullptr; }
};

enum class Kind { kAuto, kKvm, kTrap };
// Where the kvm platform runs the sentry: in the host, or in ring 0 of its vCPUs.
enum class KvmMode { kAuto, kRing0, kExit };

struct Options {
  Kind kind = Kind::kAuto;
  u32 vcpus = 1;
  // Other than kExit only for who runs the workers' loops by run_loop().
  KvmMode kvm_mode = KvmMode::kExit;
};

// Creates the platform asked for; with kAuto the fastest that works. `memory` must outlive it. Workers of
// the scheduler that runs later use vCPU number Worker::index(). The error says why and what to do.
Setup<std::unique_ptr<Platform>> create(const Options& options, GuestMemory& memory);

// doctor's lines: what was looked at, whether it is fine, and what to do when not.
struct Check {
  enum class State { kGood, kWarning, kBad };
  std::string name;
  State state;
  std::string detail;
};
std::vector<Check> diagnose();

}  // namespace rf::platform
