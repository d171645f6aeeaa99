#include "task/close.h"

#include "fs/special_files.h"

namespace rf::task {

Result<void> close_file(Task& task, Ref<fs::File> file) {
  if ((file->flags() & O_PATH) != 0) return {};
  // fcntl(2) locks belong to the descriptor table, and go with the first descriptor of the inode that is closed.
  fs::release_record_locks(file->inode(), task.files.get());
  auto flushed = file->flush(task.fs_context());
  file.reset();
  return flushed;
}

void replace_files(Task& task, Ref<fs::FdTable> files) {
  if (Ref<fs::FdTable> old = task.files; old && old->users.fetch_sub(1, std::memory_order_acq_rel) == 1)
    for (Ref<fs::File>& file : old->remove_all()) (void)close_file(task, std::move(file));
  SpinGuard guard(task.group->signal_lock);
  std::swap(task.files, files);
}

}  // namespace rf::task
