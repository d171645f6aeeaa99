// The N_TTY line discipline, termios(3): what happens between a keyboard and a program. A state machine without locks
// or waits; the pty that owns it has both.
//
// "Input" is what was typed (the master's writes) on its way to the program; "output" is what the program wrote and
// what is echoed, on its way to the screen (the master's reads). Both are bounded.
#pragma once

#include <asm/termbits.h>  // the kernel's struct termios2, not libc's

#include <deque>
#include <span>
#include <string>
#include <vector>

#include "core/types.h"

namespace rf::fs {

class LineDiscipline {
 public:
  static constexpr size_t kInputLimit = 4096;    // bytes, as N_TTY_BUF_SIZE of Linux
  static constexpr size_t kOutputLimit = 16384;  // bytes

  LineDiscipline();

  const struct termios2& settings() const { return settings_; }
  void set_settings(const struct termios2& settings);

  // What receive() wants done besides; signals go to the foreground group.
  struct Events {
    int signal = 0;        // SIGINT, SIGQUIT, SIGTSTP; 0: none. receive() stops behind the character that asks for one
    bool flushed = false;  // with the signal, input and output were dropped
    bool started = false, stopped = false;  // output, by IXON characters
  };
  // Takes typed characters: as many as there is room for. Returns how many were used up.
  size_t receive(std::span<const u8> typed, Events& events);

  // Takes what the program writes, processed (OPOST), as far as there is room. Returns how many bytes were used up.
  size_t write(std::span<const u8> data);

  // Whether a read would deliver something. Canonical: a whole line or an end of file; else `minimum` bytes.
  bool readable(size_t minimum) const;
  // Moves input to `out`: at most a line in canonical mode. 0: an end of file was typed (canonical), or nothing there.
  size_t read(std::span<u8> out);
  // Bytes a read could get, FIONREAD.
  size_t input_size() const;
  bool can_receive() const;

  std::string& output() { return output_; }
  const std::string& output() const { return output_; }
  size_t output_room() const { return stopped_ || output_.size() >= kOutputLimit ? 0 : kOutputLimit - output_.size(); }

  void flush_input();
  void flush_output() { output_.clear(); }
  // Output stopped by the STOP character or TCOOFF.
  bool stopped() const { return stopped_; }
  void set_stopped(bool stopped) { stopped_ = stopped; }

  bool canonical() const { return (settings_.c_lflag & ICANON) != 0; }
  bool local(u32 flag) const { return (settings_.c_lflag & flag) != 0; }
  u8 control(int index) const { return settings_.c_cc[index]; }

 private:
  struct Line {
    size_t size;
    bool end_of_file;  // ended by VEOF, which is not part of it
  };

  bool is(u8 c, int index) const { return c != 0 && c == settings_.c_cc[index]; }  // 0 is _POSIX_VDISABLE
  bool input_flag(u32 flag) const { return (settings_.c_iflag & flag) != 0; }
  bool output_flag(u32 flag) const { return (settings_.c_oflag & flag) != 0; }

  void receive_one(u8 c, Events& events);
  bool flow_control(u8 c, Events& events);
  bool signal_character(u8 c, Events& events);
  bool edit(u8 c);
  void end_line(u8 c, bool end_of_file);
  void append(u8 c);
  void erase(u8 which);
  size_t last_character() const;
  void rub_out(size_t from, size_t to, bool tab);
  std::vector<size_t> columns() const;
  void reprint();

  void put_output(u8 c);  // processed; dropped when there is no room
  void put_raw(char c);
  bool process_output(u8 c);  // false: no room
  void echo(u8 c);
  void echo_newline();

  struct termios2 settings_;
  std::string ready_;       // input that can be read
  std::deque<Line> lines_;  // its division in canonical mode
  std::string line_;        // the line being edited
  std::string output_;
  size_t column_ = 0;       // of the cursor
  size_t line_column_ = 0;  // where the line being edited began
  bool literal_ = false;    // VLNEXT came before
  bool stopped_ = false;
};

}  // namespace rf::fs
