// What the sentry and the stub processes share: where the stub's own pages are in a stub process, and what is in them.
// Read by C++ and by the assembler.
//
// A stub process holds guest memory below platform::kGuestAddressLimit and, above it and a page of nothing, only these:
//
//   kText    read, execute  the stub's code: one copy for all, see stub.S and stub_code.cc
//   kConst   read           seccomp programs, the sentry's pid
//   kWake    read           a futex word for each stub thread, written by the sentry
//   kCommand read           commands for the process's manager thread, written by the sentry
//   kAreas   read, write    an Area for each of the process's stub threads: the guest can write there, so nothing in it
//                           may be trusted
//
// All of it are parts of one memfd, the control file, at the same distances as below.
#pragma once

// Offsets in Area that stub.S uses; checked below.
#define RF_AREA_STATE 0
#define RF_AREA_ACTION 64
#define RF_AREA_FP_LOAD 72
#define RF_AREA_SELF 128
#define RF_AREA_STACK_TOP 136
#define RF_AREA_KICK_PENDING 164
#define RF_AREA_REGS 256
#define RF_AREA_IRET 512
#define RF_AREA_ALT_STACK 576
#define RF_AREA_SIGNAL_MASK 600
#define RF_AREA_RSEQ 736
#define RF_AREA_SIZE 0x10000

// Registers in Area::regs, in the order of user_regs_struct.
#define RF_REG_R15 0
#define RF_REG_R14 8
#define RF_REG_R13 16
#define RF_REG_R12 24
#define RF_REG_RBP 32
#define RF_REG_RBX 40
#define RF_REG_R11 48
#define RF_REG_R10 56
#define RF_REG_R9 64
#define RF_REG_R8 72
#define RF_REG_RAX 80
#define RF_REG_RCX 88
#define RF_REG_RDX 96
#define RF_REG_RSI 104
#define RF_REG_RDI 112
#define RF_REG_ORIG_RAX 120
#define RF_REG_RIP 128
#define RF_REG_CS 136
#define RF_REG_EFLAGS 144
#define RF_REG_RSP 152
#define RF_REG_SS 160

#define RF_ACTION_JUMP 8

#define RF_STUB_TEXT 0x700000001000
#define RF_STUB_CONST 0x700000100000
#define RF_STUB_WAKE 0x700000200000
#define RF_STUB_COMMAND 0x700000300000
#define RF_STUB_AREAS 0x700010000000
#define RF_STUB_END 0x700090000000

// In CommandPage and ConstPage.
#define RF_COMMAND_GENERATION 0
#define RF_COMMAND_COUNT 4
#define RF_COMMAND_CHILD_COUNT 8
#define RF_COMMAND_DONE_FD 12
#define RF_COMMAND_AFFINITY_SIZE 16
#define RF_COMMAND_LENDER 24
#define RF_COMMAND_LIST 64
#define RF_COMMAND_AFFINITY 3648
#define RF_COMMAND_CHILD_LIST 3840
#define RF_COMMAND_SIZE 56
#define RF_CONST_PARENT 0
#define RF_CONST_DONE 8
#define RF_CONST_FAILED 16
#define RF_CONST_FILTER 32

#ifndef __ASSEMBLER__

#include <stddef.h>

#include "core/types.h"
#include "platform/platform.h"

namespace rf::trap {

inline constexpr u64 kText = RF_STUB_TEXT, kConst = RF_STUB_CONST, kWake = RF_STUB_WAKE, kCommand = RF_STUB_COMMAND,
                     kAreas = RF_STUB_AREAS, kStubEnd = RF_STUB_END;
// Guest code that runs over its limit finds nothing, as behind the end of Linux's.
static_assert(kText == platform::kGuestAddressLimit + kPageSize);

inline constexpr u64 kAreaSize = RF_AREA_SIZE;
inline constexpr u32 kMaxThreads = (kStubEnd - kAreas) / kAreaSize;  // in a sandbox, over all stub processes
inline constexpr u32 kMaxStubs = kMaxThreads;

// Area::state. The stub thread sets it to say why it stopped.
enum State : u32 {
  kRunning = 0,     // set by the sentry before it resumes the thread
  kTrapped = 1,     // a signal stopped it: regs and the fields behind them are set
  kCalled = 2,      // a system call through a trampoline: regs are set, vector state is live
  kNotStarted = 3,  // kicked before it was back in guest code: regs are those that the sentry set
  kFpSaved = 4,     // the answer to kSaveFp
  kDead = 5,        // the process is gone; set by the sentry
};

// Area::action: what a resumed thread does first; then it goes back to guest code unless kSaveFp is among it.
enum Action : u32 {
  kSetBases = 1,  // FS and GS base
  kSaveFp = 2,    // store the vector state in Area::fp, and wait again
  kMove = 4,      // run on Area::cpus from here on
  kOwnGs = 16,    // GS base is the Area, whatever guest code has made of it
  // The way back may be a jump: the thread came by rf_trap_call, so GS base is the Area's, and no flag is set that only
  // IRET can set.
  kByJump = RF_ACTION_JUMP,
};

// A thread's wake word changes when the sentry wants something of it: to do as Area::action says, or, if this bit is
// set, to wake the manager, leave the CPU to it, and wait again. The thread reads both wishes from the one word: it may
// come so late that the second has taken the place of the first.
inline constexpr u32 kLend = 1, kNextWake = 2;

inline constexpr u32 kMostCpus = 1024;
struct CpuSet {
  u64 words[kMostCpus / 64];

  bool has(u32 cpu) const { return cpu < kMostCpus && (words[cpu / 64] >> cpu % 64 & 1) != 0; }
  void add(u32 cpu) { words[cpu / 64] |= u64{1} << cpu % 64; }
  void remove(u32 cpu) {
    if (cpu < kMostCpus) words[cpu / 64] &= ~(u64{1} << cpu % 64);
  }
  u32 count() const {
    u32 n = 0;
    for (u64 w : words) n += static_cast<u32>(__builtin_popcountll(w));
    return n;
  }
  bool operator==(const CpuSet&) const = default;
};

struct Area {
  u32 state;
  u32 pad0[15];
  // From the sentry, which leaves alone what need not change.
  u32 action;
  u32 step_aside;  // another thread was resumed by the same worker: its core is perhaps this thread's
  u64 fp_load;     // address of an XSAVE image to be loaded before guest code goes on, or 0
  u64 fs_base, gs_base;
  u64 spin_cycles;  // how long to look for the next resumption before going to sleep
  u64 pad1[3];
  // Set once.
  u64 self;
  u64 stack_top;
  u64 wake_word;
  u64 wake_base;
  // The thread's own.
  u32 last_wake;     // the wake word when it was last resumed
  u32 kick_pending;  // a kick found the thread in the stub's own code
  u32 tid;
  u32 pad2[5];
  // Looked at by the other side at each call, and seldom changed.
  u32 sleeping;       // the thread waits for its wake word in the kernel
  u32 crowded;        // a yield of the thread's took kLongYieldCycles
  u32 sentry_sleeps;  // a futex word: the sentry waits for state in the kernel. Who wakes it makes it 0 first
  u32 pad3[13];
  u64 regs[27];
  // Of a signal: kTrapped.
  u32 signo;
  s32 code;
  u64 address;
  u64 vector, error, cr2;
  u64 iret[5];
  u64 fp_image;  // where the vector state is, for kTrapped and kNotStarted
  u64 pad4[2];
  u64 alt_stack[3];  // a stack_t
  u64 signal_mask;
  CpuSet cpus;
  // Kept by the kernel: rseq(2).
  struct alignas(32) {
    u32 cpu_start;
    u32 cpu;  // that the thread is on; kNoCpu: unknown
    u64 section;
    u32 flags, node, concurrency, pad;
  } rseq;
};

inline constexpr u64 kFpOffset = 0x1000, kFpSize = 0x4000;  // Area's own XSAVE image, for the sentry's use
inline constexpr u64 kStackOffset = 0x6000;                 // the signal stack, up to the area's end

// A host call for the manager thread to make.
struct Command {
  u64 number;
  u64 args[6];
};

struct CommandPage {
  u32 generation;  // raised by the sentry when the rest is set; the manager's futex word
  u32 count;
  u32 child_count;
  s32 done_fd;  // an eventfd that gets kDone or kFailed in the end, from a child process as well; -1: nobody waits
  u32 affinity_size;  // of the mask in use, in bytes; 0: the manager stays where it is
  u32 pad0;
  u64 lender;  // the wake word of a thread that sleeps to lend the manager its CPU, or 0
  u32 pad[8];
  Command commands[64];
  CpuSet affinity;  // the CPUs that the manager is to run on from here on
  u64 pad2[8];
  Command child_commands[4];  // what the child of a clone does first
};
inline constexpr u32 kMaxCommands = 64, kMaxChildCommands = 4;

inline constexpr u32 kNoCpu = ~0u;

// How long those who wait for each other look before they yield, in cycles: when the answer comes from another core,
// and when this one may be needed for it.
inline constexpr u64 kLookCycles = 20'000, kGlanceCycles = 500;
// A yield that takes so long gave the core to somebody else for a time slice.
inline constexpr u64 kLongYieldCycles = 2'000'000;

// Guest code can wait on the same words: a wake-up for one might be its.
inline constexpr int kEverybody = 0x7fffffff;

inline constexpr u64 kDone = 1, kFailed = u64{1} << 32;

struct ConstPage {
  u32 parent;  // the sentry's pid: a stub process with another parent ends itself
  u32 pad;
  u64 done, failed;  // kDone and kFailed, to be written from here
  u64 pad2;
  struct {
    u64 length;
    u64 filter;
  } program;  // a sock_fprog: the seccomp filter of threads that run guest code
};

static_assert(offsetof(Area, state) == RF_AREA_STATE && offsetof(Area, kick_pending) == RF_AREA_KICK_PENDING);
static_assert(offsetof(Area, fp_load) == RF_AREA_FP_LOAD && offsetof(Area, self) == RF_AREA_SELF);
static_assert(offsetof(Area, stack_top) == RF_AREA_STACK_TOP && offsetof(Area, regs) == RF_AREA_REGS);
static_assert(offsetof(Area, action) == RF_AREA_ACTION);
static_assert(offsetof(Area, iret) == RF_AREA_IRET && offsetof(Area, alt_stack) == RF_AREA_ALT_STACK);
static_assert(offsetof(Area, signal_mask) == RF_AREA_SIGNAL_MASK && sizeof(Area) <= kFpOffset);
static_assert(offsetof(Area, rseq) == RF_AREA_RSEQ && sizeof(Area::rseq) == 32);
static_assert(sizeof(platform::Registers) == sizeof(Area::regs));
static_assert(offsetof(platform::Registers, rip) == RF_REG_RIP && offsetof(platform::Registers, ss) == RF_REG_SS);
static_assert(offsetof(CommandPage, count) == RF_COMMAND_COUNT && offsetof(CommandPage, done_fd) == RF_COMMAND_DONE_FD);
static_assert(offsetof(CommandPage, affinity_size) == RF_COMMAND_AFFINITY_SIZE);
static_assert(offsetof(CommandPage, affinity) == RF_COMMAND_AFFINITY);
static_assert(offsetof(CommandPage, lender) == RF_COMMAND_LENDER);
static_assert(offsetof(CommandPage, child_count) == RF_COMMAND_CHILD_COUNT);
static_assert(offsetof(CommandPage, commands) == RF_COMMAND_LIST && sizeof(Command) == RF_COMMAND_SIZE);
static_assert(offsetof(CommandPage, child_commands) == RF_COMMAND_CHILD_LIST && sizeof(CommandPage) <= 4096);
static_assert(offsetof(ConstPage, parent) == RF_CONST_PARENT && offsetof(ConstPage, done) == RF_CONST_DONE);
static_assert(offsetof(ConstPage, failed) == RF_CONST_FAILED && offsetof(ConstPage, program) == RF_CONST_FILTER);

}  // namespace rf::trap

#endif
