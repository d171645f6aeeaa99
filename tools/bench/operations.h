// The operations that the measuring program times.
#pragma once

#include <stddef.h>

struct Operation {
  const char* name;
  const char* what;
  void (*begin)(void);  // makes what the operation needs, not timed; may be NULL
  void (*run)(long n);  // does the operation n times
  void (*end)(void);    // undoes begin; may be NULL
};

extern const struct Operation kOperations[];
extern const size_t kOperationCount;

// Where operations make their files: /tmp, unless the caller sets another.
extern const char* scratch_directory;

// Ends the program with a message and errno's text unless `good`.
void must(int good, const char* what);
