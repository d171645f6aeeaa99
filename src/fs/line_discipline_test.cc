#include "fs/line_discipline.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <string_view>
#include <utility>

namespace rf::fs {
namespace {

std::span<const u8> bytes(std::string_view s) { return {reinterpret_cast<const u8*>(s.data()), s.size()}; }

class LineDisciplineTest : public testing::Test {
 protected:
  LineDiscipline tty;

  LineDiscipline::Events type(std::string_view s) {
    LineDiscipline::Events events;
    EXPECT_EQ(tty.receive(bytes(s), events), s.size());
    return events;
  }
  std::string read(size_t max = 4096) {
    std::string out(max, '\0');
    out.resize(tty.read({reinterpret_cast<u8*>(out.data()), max}));
    return out;
  }
  std::string screen() { return std::exchange(tty.output(), ""); }
  void change(auto f) {
    struct termios2 t = tty.settings();
    f(t);
    tty.set_settings(t);
  }
};

TEST_F(LineDisciplineTest, LineIsReadableOnlyWhenEnded) {
  type("hello");
  EXPECT_FALSE(tty.readable(1));
  EXPECT_EQ(read(), "");
  type("\r");
  EXPECT_TRUE(tty.readable(1));
  EXPECT_EQ(read(), "hello\n");
  EXPECT_EQ(screen(), "hello\r\n");
}

TEST_F(LineDisciplineTest, OneReadGivesOneLineAndLongLinesGoInParts) {
  type("first\nsecond\n");
  EXPECT_EQ(read(3), "fir");
  EXPECT_EQ(read(), "st\n");
  EXPECT_EQ(read(), "second\n");
  EXPECT_FALSE(tty.readable(1));
}

TEST_F(LineDisciplineTest, EraseRubsOutCharactersTabsAndControls) {
  type("ab\x7f");
  EXPECT_EQ(screen(), "ab\b \b");
  type("\x01\x7f");
  EXPECT_EQ(screen(), "^A\b \b\b \b");
  type("\t\x7f");
  EXPECT_EQ(screen(), "\t\b\b\b\b\b\b\b");
  type("\n");
  EXPECT_EQ(read(), "a\n");
}

TEST_F(LineDisciplineTest, EraseTakesWholeUtf8Characters) {
  change([](auto& t) { t.c_iflag |= IUTF8; });
  type("a\xc3\xa9\x7f\n");
  EXPECT_EQ(read(), "a\n");
  EXPECT_EQ(screen(), "a\xc3\xa9\b \b\r\n");
}

TEST_F(LineDisciplineTest, WordEraseAndKill) {
  type("one two  \x17");
  EXPECT_EQ(screen(), "one two  " + std::string("\b \b\b \b\b \b\b \b\b \b"));
  type("x\n");
  EXPECT_EQ(read(), "one x\n");
  screen();
  type("abc\x15z\n");
  EXPECT_EQ(screen(), "abc\b \b\b \b\b \bz\r\n");
  EXPECT_EQ(read(), "z\n");
}

TEST_F(LineDisciplineTest, EndOfFileEndsLineWithoutItself) {
  type("abc\x04");
  EXPECT_EQ(read(), "abc");
  EXPECT_FALSE(tty.readable(1));
  type("\x04");
  EXPECT_TRUE(tty.readable(1));
  EXPECT_EQ(read(), "");
  EXPECT_FALSE(tty.readable(1));
}

TEST_F(LineDisciplineTest, LiteralNextTakesAwayMeaning) {
  type("\x16\x03\n");
  EXPECT_EQ(read(), "\x03\n");
  EXPECT_EQ(screen(), "^\b^C\r\n");
}

TEST_F(LineDisciplineTest, SignalCharactersFlushAndEcho) {
  type("half a line");
  screen();
  auto events = type("\x03");
  EXPECT_EQ(events.signal, SIGINT);
  EXPECT_TRUE(events.flushed);
  EXPECT_EQ(screen(), "^C");
  type("x\n");
  EXPECT_EQ(read(), "x\n");
  EXPECT_EQ(type("\x1a").signal, SIGTSTP);
  EXPECT_EQ(type("\x1c").signal, SIGQUIT);
  change([](auto& t) { t.c_lflag &= ~static_cast<tcflag_t>(ISIG); });
  EXPECT_EQ(type("\x03\n").signal, 0);
  EXPECT_EQ(read(), "\x03\n");
}

TEST_F(LineDisciplineTest, RawModePassesEverything) {
  change([](auto& t) {
    t.c_lflag = 0;
    t.c_iflag = 0;
    t.c_oflag = 0;
  });
  type("a\r\x03\x04");
  EXPECT_TRUE(tty.readable(4));
  EXPECT_FALSE(tty.readable(5));
  EXPECT_EQ(read(), "a\r\x03\x04");
  EXPECT_EQ(screen(), "");
  EXPECT_EQ(tty.write(bytes("x\n")), 2u);
  EXPECT_EQ(screen(), "x\n");
}

TEST_F(LineDisciplineTest, LeavingCanonicalModeFreesTheUnfinishedLine) {
  type("unfinished");
  change([](auto& t) { t.c_lflag &= ~static_cast<tcflag_t>(ICANON); });
  EXPECT_EQ(read(), "unfinished");
}

TEST_F(LineDisciplineTest, StopAndStartHoldOutput) {
  EXPECT_TRUE(type("\x13").stopped);
  EXPECT_EQ(tty.write(bytes("x")), 0u);
  EXPECT_TRUE(type("\x11").started);
  EXPECT_EQ(tty.write(bytes("x")), 1u);
}

TEST_F(LineDisciplineTest, OutputProcessing) {
  tty.write(bytes("a\tb\n"));
  EXPECT_EQ(screen(), "a\tb\r\n");
  change([](auto& t) { t.c_oflag |= TAB3; });
  tty.write(bytes("a\tb\n"));
  EXPECT_EQ(screen(), "a       b\r\n");
}

TEST_F(LineDisciplineTest, BuffersAreBounded) {
  type(std::string(10000, 'x'));
  type("\n");
  EXPECT_EQ(read(8192).size(), LineDiscipline::kInputLimit);
  EXPECT_LE(screen().size(), LineDiscipline::kOutputLimit);
  const std::string big(LineDiscipline::kOutputLimit * 2, 'y');
  EXPECT_EQ(tty.write(bytes(big)), LineDiscipline::kOutputLimit);
  change([](auto& t) { t.c_lflag &= ~static_cast<tcflag_t>(ICANON); });
  LineDiscipline::Events events;
  EXPECT_LT(tty.receive(bytes(big), events), LineDiscipline::kInputLimit);
}

}  // namespace
}  // namespace rf::fs
