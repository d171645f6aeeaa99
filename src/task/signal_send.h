// Sending signals to the calling task.
#pragma once

namespace rf::task {

class Task;

// Sends `sig` to the task itself as the kernel does (SI_KERNEL): SIGPIPE, SIGXFSZ.
void raise_signal(Task& task, int sig);

}  // namespace rf::task
