// Writing and reading whole small files, for tests whose subject is something else.
#pragma once

#include "check.h"

__attribute__((unused)) static void put_file(const char* path, const char* text) {
  int fd = CHECK_OK(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
  CHECK_EQ(close(fd), 0);
}

// The file's text, in a buffer that the next call reuses. At most 64 KiB.
__attribute__((unused)) static const char* get_file(const char* path) {
  static char text[65536];
  int fd = CHECK_OK(open(path, O_RDONLY));
  size_t n = 0;
  ssize_t r;
  while (n < sizeof text - 1 && (r = CHECK_OK(read(fd, text + n, sizeof text - 1 - n))) > 0) n += (size_t)r;
  text[n] = 0;
  CHECK_EQ(close(fd), 0);
  return text;
}

__attribute__((unused)) static off_t file_size(const char* path) {
  struct stat st;
  CHECK_EQ(stat(path, &st), 0);
  return st.st_size;
}
