#include "fs/line_discipline.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <utility>
#include <vector>

namespace rf::fs {
namespace {

constexpr u8 kControlMask = 0x40;

// tty_std_termios of Linux.
struct termios2 initial_settings() {
  struct termios2 t {};
  t.c_iflag = ICRNL | IXON;
  t.c_oflag = OPOST | ONLCR;
  t.c_cflag = B38400 | CS8 | CREAD | HUPCL;
  t.c_lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN;
  t.c_ispeed = t.c_ospeed = 38400;
  constexpr auto ctrl = [](char c) { return static_cast<u8>(c ^ kControlMask); };
  t.c_cc[VINTR] = ctrl('C');
  t.c_cc[VQUIT] = ctrl('\\');
  t.c_cc[VERASE] = 0x7f;
  t.c_cc[VKILL] = ctrl('U');
  t.c_cc[VEOF] = ctrl('D');
  t.c_cc[VMIN] = 1;
  t.c_cc[VSTART] = ctrl('Q');
  t.c_cc[VSTOP] = ctrl('S');
  t.c_cc[VSUSP] = ctrl('Z');
  t.c_cc[VREPRINT] = ctrl('R');
  t.c_cc[VDISCARD] = ctrl('O');
  t.c_cc[VWERASE] = ctrl('W');
  t.c_cc[VLNEXT] = ctrl('V');
  return t;
}

bool is_control(u8 c) { return c < 0x20 || c == 0x7f; }
bool is_continuation(u8 c) { return (c & 0xc0) == 0x80; }
size_t to_tab_stop(size_t column) { return 8 - column % 8; }

}  // namespace

LineDiscipline::LineDiscipline() : settings_(initial_settings()) {}

void LineDiscipline::set_settings(const struct termios2& settings) {
  const bool was_canonical = canonical();
  settings_ = settings;
  if (was_canonical && !canonical()) {
    // Everything typed can be read now, lines or not.
    ready_ += line_;
    line_.clear();
    lines_.clear();
  } else if (!was_canonical && canonical() && !ready_.empty()) {
    lines_.push_back({ready_.size(), true});
  }
  if (!input_flag(IXON)) stopped_ = false;
}

// --- Output ---

void LineDiscipline::put_raw(char c) {
  if (output_.size() < kOutputLimit) output_.push_back(c);
}

// do_output_char() of Linux.
bool LineDiscipline::process_output(u8 c) {
  const size_t room = kOutputLimit - std::min(kOutputLimit, output_.size());
  if (room == 0) return false;
  if (!output_flag(OPOST)) {
    output_.push_back(static_cast<char>(c));
    return true;
  }
  switch (c) {
    case '\n':
      if (output_flag(ONLRET)) column_ = 0;
      if (output_flag(ONLCR)) {
        if (room < 2) return false;
        column_ = line_column_ = 0;
        output_ += "\r\n";
        return true;
      }
      line_column_ = column_;
      break;
    case '\r':
      if (output_flag(ONOCR) && column_ == 0) return true;
      if (output_flag(OCRNL)) {
        c = '\n';
        if (output_flag(ONLRET)) column_ = line_column_ = 0;
        break;
      }
      column_ = line_column_ = 0;
      break;
    case '\t': {
      const size_t spaces = to_tab_stop(column_);
      if ((settings_.c_oflag & TABDLY) == TAB3) {
        if (room < spaces) return false;
        output_.append(spaces, ' ');
        column_ += spaces;
        return true;
      }
      column_ += spaces;
      break;
    }
    case '\b':
      if (column_ > 0) --column_;
      break;
    default:
      if (is_control(c)) break;
      if (output_flag(OLCUC)) c = static_cast<u8>(std::toupper(c));
      if (!input_flag(IUTF8) || !is_continuation(c)) ++column_;
  }
  output_.push_back(static_cast<char>(c));
  return true;
}

void LineDiscipline::put_output(u8 c) { (void)process_output(c); }

size_t LineDiscipline::write(std::span<const u8> data) {
  if (stopped_) return 0;
  size_t used = 0;
  while (used < data.size() && process_output(data[used])) ++used;
  return used;
}

// --- Echo ---

void LineDiscipline::echo(u8 c) {
  if (!local(ECHO)) return;
  if (local(ECHOCTL) && is_control(c) && c != '\t' && c != '\n') {
    put_output('^');
    put_output(c ^ kControlMask);
    return;
  }
  put_output(c);
}

void LineDiscipline::echo_newline() {
  if (local(ECHO) || (canonical() && local(ECHONL))) put_output('\n');
}

// The column behind each prefix of the line being edited: element n for its first n bytes.
std::vector<size_t> LineDiscipline::columns() const {
  std::vector<size_t> result{line_column_};
  result.reserve(line_.size() + 1);
  size_t column = line_column_;
  for (char byte : line_) {
    const u8 c = static_cast<u8>(byte);
    if (c == '\t')
      column += to_tab_stop(column);
    else if (is_control(c))
      column += local(ECHOCTL) ? 2 : 0;
    else if (!input_flag(IUTF8) || !is_continuation(c))
      ++column;
    result.push_back(column);
  }
  return result;
}

// Moves the cursor from one column back to another, wiping out what is between.
void LineDiscipline::rub_out(size_t from, size_t to, bool tab) {
  for (; from > to; --from) {
    put_output('\b');
    if (tab) continue;  // it left nothing to wipe out, and what stands there may be older
    put_output(' ');
    put_output('\b');
  }
}

void LineDiscipline::reprint() {
  echo(control(VREPRINT));
  put_output('\n');
  line_column_ = column_;
  for (char c : line_) echo(static_cast<u8>(c));
}

// --- Input ---

// Bytes of the last character of the line.
size_t LineDiscipline::last_character() const {
  size_t size = 1;
  if (input_flag(IUTF8))
    while (size < line_.size() && is_continuation(static_cast<u8>(line_[line_.size() - size]))) ++size;
  return size;
}

// eraser() of Linux: VERASE one character, VWERASE a word with the blanks behind it, VKILL the line.
void LineDiscipline::erase(u8 which) {
  if (line_.empty()) return;
  if (which == VKILL && (!local(ECHOE) || !local(ECHOK) || !local(ECHOKE))) {
    line_.clear();
    echo(control(VKILL));
    if (local(ECHOK) && local(ECHO)) put_output('\n');
    return;
  }
  const std::vector<size_t> column = columns();
  bool in_word = false;
  do {
    const size_t rest = line_.size() - last_character();
    const u8 c = static_cast<u8>(line_[rest]);
    if (which == VWERASE) {
      const bool word = std::isalnum(c) != 0 || c == '_' || c >= 0x80;
      if (!word && in_word) break;
      in_word |= word;
    }
    if (local(ECHO) && local(ECHOE))
      rub_out(column[line_.size()], column[rest], c == '\t');
    else
      echo(control(VERASE));
    line_.resize(rest);
  } while (which != VERASE && !line_.empty());
}

void LineDiscipline::append(u8 c) {
  if (!canonical()) {
    ready_.push_back(static_cast<char>(c));
    return;
  }
  // The last place is kept for what ends the line.
  if (ready_.size() + line_.size() + 1 >= kInputLimit) return;
  line_.push_back(static_cast<char>(c));
}

void LineDiscipline::end_line(u8 c, bool end_of_file) {
  if (!end_of_file) line_.push_back(static_cast<char>(c));
  lines_.push_back({line_.size(), end_of_file});
  ready_ += line_;
  line_.clear();
}

bool LineDiscipline::flow_control(u8 c, Events& events) {
  if (!input_flag(IXON)) return false;
  if (is(c, VSTART)) {
    events.started = stopped_;
    stopped_ = false;
    return true;
  }
  if (is(c, VSTOP)) {
    events.stopped = !stopped_;
    stopped_ = true;
    return true;
  }
  return false;
}

bool LineDiscipline::signal_character(u8 c, Events& events) {
  if (!local(ISIG)) return false;
  if (is(c, VINTR))
    events.signal = SIGINT;
  else if (is(c, VQUIT))
    events.signal = SIGQUIT;
  else if (is(c, VSUSP))
    events.signal = SIGTSTP;
  else
    return false;
  if (!local(NOFLSH)) {
    flush_input();
    flush_output();
    events.flushed = true;
  }
  if (input_flag(IXON)) stopped_ = false;
  echo(c);
  return true;
}

// The characters that mean something to the line being edited. True if `c` was one.
bool LineDiscipline::edit(u8 c) {
  const bool extended = local(IEXTEN);
  if (is(c, VERASE) || is(c, VKILL) || (extended && is(c, VWERASE))) {
    erase(is(c, VERASE) ? VERASE : is(c, VKILL) ? VKILL : VWERASE);
    return true;
  }
  if (extended && is(c, VLNEXT)) {
    literal_ = true;
    if (local(ECHO) && local(ECHOCTL)) {
      put_output('^');
      put_output('\b');
    }
    return true;
  }
  if (extended && local(ECHO) && is(c, VREPRINT)) {
    reprint();
    return true;
  }
  if (c == '\n') {
    echo_newline();
    end_line(c, false);
    return true;
  }
  if (is(c, VEOF)) {
    end_line(c, true);
    return true;
  }
  if (is(c, VEOL) || (extended && is(c, VEOL2))) {
    if (line_.empty()) line_column_ = column_;
    echo(c);
    end_line(c, false);
    return true;
  }
  return false;
}

void LineDiscipline::receive_one(u8 c, Events& events) {
  if (input_flag(ISTRIP)) c &= 0x7f;
  if (input_flag(IUCLC) && local(IEXTEN)) c = static_cast<u8>(std::tolower(c));
  const bool literal = std::exchange(literal_, false);
  if (!literal) {
    if (flow_control(c, events)) return;
    if (signal_character(c, events)) return;
    if (stopped_ && input_flag(IXON) && input_flag(IXANY)) {
      stopped_ = false;
      events.started = true;
    }
    if (c == '\r') {
      if (input_flag(IGNCR)) return;
      if (input_flag(ICRNL)) c = '\n';
    } else if (c == '\n' && input_flag(INLCR)) {
      c = '\r';
    }
    if (canonical() && edit(c)) return;
  }
  if (canonical() && line_.empty()) line_column_ = column_;
  const size_t before = line_.size() + ready_.size();
  append(c);
  const bool taken = line_.size() + ready_.size() > before;
  if (!taken) {
    if (input_flag(IMAXBEL)) put_raw('\a');
    return;
  }
  if (c == '\n' && !literal)
    echo_newline();
  else
    echo(c);
  if (c == 0xff && input_flag(PARMRK) && !input_flag(ISTRIP)) append(c);
}

bool LineDiscipline::can_receive() const {
  // An unfinished line always takes more: what does not fit is dropped, or nobody could type its end.
  if (canonical() && lines_.empty()) return true;
  return ready_.size() + line_.size() + 2 < kInputLimit;
}

size_t LineDiscipline::receive(std::span<const u8> typed, Events& events) {
  size_t used = 0;
  while (used < typed.size() && can_receive() && events.signal == 0) receive_one(typed[used++], events);
  return used;
}

bool LineDiscipline::readable(size_t minimum) const {
  if (canonical()) return !lines_.empty();
  return ready_.size() >= minimum;
}

size_t LineDiscipline::read(std::span<u8> out) {
  size_t n = std::min(out.size(), ready_.size());
  if (canonical()) {
    if (lines_.empty()) return 0;
    Line& line = lines_.front();
    n = std::min(out.size(), line.size);
    line.size -= n;
    if (line.size == 0) lines_.pop_front();
  }
  memcpy(out.data(), ready_.data(), n);
  ready_.erase(0, n);
  return n;
}

size_t LineDiscipline::input_size() const { return ready_.size(); }

void LineDiscipline::flush_input() {
  ready_.clear();
  lines_.clear();
  line_.clear();
  literal_ = false;
}

}  // namespace rf::fs
