// Changing a task's credentials.
#pragma once

#include "fs/credentials.h"
#include "task/task.h"

namespace rf::task {

// Replaces the task's credentials. Own fiber only.
void set_credentials(Task& task, Ref<fs::Credentials> creds);

// The same after a change of ids: capabilities follow the user ids as capabilities(7) says, and the process stops being
// dumpable when its effective ids change.
void change_ids(Task& task, Ref<fs::Credentials> creds);

}  // namespace rf::task
