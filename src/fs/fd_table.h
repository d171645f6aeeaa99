// A file-descriptor table (files_struct). Shared by CLONE_FILES.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "core/ref.h"
#include "core/result.h"
#include "core/spinlock.h"
#include "fs/file.h"

namespace rf::fs {

class FdTable;

// A number kept for a description that is still to come, so that a call can fail with EMFILE before it does what cannot
// be undone. To all others it is closed (EBADF), but it is not handed out, and dup2(2) on it is EBUSY. Given back
// unless it was filled. The table outlives it.
class ReservedFd {
 public:
  // The lowest free descriptor below `limit`; EMFILE.
  static Result<ReservedFd> make(FdTable& table, u64 limit);
  ReservedFd(ReservedFd&& o) noexcept : table_(std::exchange(o.table_, nullptr)), number_(o.number_) {}
  ReservedFd& operator=(ReservedFd&&) = delete;
  ~ReservedFd();
  int number() const { return number_; }
  // Opens the descriptor, once.
  void fill(Ref<File> file, bool cloexec);

 private:
  ReservedFd(FdTable& table, int number) : table_(&table), number_(number) {}
  FdTable* table_;  // null when there is nothing to give back
  int number_;
};

class FdTable final : public RefCounted {
 public:
  FdTable();
  Ref<FdTable> fork();  // copies the table, shares the descriptions

  // Takes a reference; EBADF. Lock-free or nearly: on the path of every call that takes a descriptor.
  Result<Ref<File>> get(int fd) const;
  bool close_on_exec(int fd) const;
  Result<void> set_close_on_exec(int fd, bool on);

  // The lowest free descriptor >= `min` and below `limit` (RLIMIT_NOFILE); EMFILE.
  Result<int> install(Ref<File> file, bool cloexec, int min, u64 limit);
  // dup2/dup3: puts `file` at `fd`; the description that was there is returned for the caller to flush. EBADF when
  // fd >= limit, EBUSY when it is reserved.
  Result<Ref<File>> replace(int fd, Ref<File> file, bool cloexec, u64 limit);
  // Takes the descriptor out; the caller flushes and drops the description. EBADF.
  Result<Ref<File>> remove(int fd);
  // close_range(2); returns the removed descriptions.
  std::vector<Ref<File>> remove_range(u32 first, u32 last);
  void set_close_on_exec_range(u32 first, u32 last);
  std::vector<Ref<File>> remove_close_on_exec();
  std::vector<Ref<File>> remove_all();

  // Tasks that use the table, kept by the task room: the last to leave closes the files.
  std::atomic<u32> users{1};

  // Open descriptors in ascending order, for /proc and close_range.
  std::vector<int> descriptors() const;

 private:
  friend class ReservedFd;
  ~FdTable() override;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rf::fs
