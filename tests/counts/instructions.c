// A plugin for QEMU's TCG: counts the instructions from each SYSCALL to the SYSRET that follows, both included, whoever
// makes them, and prints how many calls took how many, the most frequent first. tests/counts/run loads it.
//
// The declarations are those of QEMU's qemu-plugin.h, version 1 of its interface, which Debian does not package.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn*);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn*, void (*)(unsigned, void*),
                                            enum qemu_plugin_cb_flags, void*);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn*, enum qemu_plugin_op, void*, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void*), void*);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { kMost = 20000, kShown = 5 };
static uint64_t g_count, g_start;
static uint64_t g_calls[kMost];

static void on_syscall(unsigned cpu, void* data) {
  (void)cpu, (void)data;
  g_start = g_count;
}

static void on_sysret(unsigned cpu, void* data) {
  (void)cpu, (void)data;
  if (g_start != 0 && g_count - g_start + 1 < kMost) g_calls[g_count - g_start + 1]++;
  g_start = 0;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  static const unsigned char syscall_code[] = {0x0f, 0x05}, sysret_code[] = {0x48, 0x0f, 0x07};
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
    struct qemu_plugin_insn* insn = qemu_plugin_tb_get_insn(block, i);
    const void* code = qemu_plugin_insn_data(insn);
    const size_t size = qemu_plugin_insn_size(insn);
    qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &g_count, 1);
    if (size == sizeof syscall_code && !memcmp(code, syscall_code, size))
      qemu_plugin_register_vcpu_insn_exec_cb(insn, on_syscall, QEMU_PLUGIN_CB_NO_REGS, NULL);
    if (size == sizeof sysret_code && !memcmp(code, sysret_code, size))
      qemu_plugin_register_vcpu_insn_exec_cb(insn, on_sysret, QEMU_PLUGIN_CB_NO_REGS, NULL);
  }
}

static void print(qemu_plugin_id_t id, void* file) {
  (void)id;
  for (int shown = 0; shown < kShown; shown++) {
    int most = 0;
    for (int n = 1; n < kMost; n++)
      if (g_calls[n] > g_calls[most]) most = n;
    if (g_calls[most] == 0) break;
    fprintf(file, "%" PRIu64 " calls of %d instructions\n", g_calls[most], most);
    g_calls[most] = 0;
  }
  fclose(file);
}

// The argument out=FILE.
__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void* info, int argc,
                                                               char** argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) return 1;
  FILE* file = fopen(argv[0] + 4, "w");
  if (!file) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, print, file);
  return 0;
}
