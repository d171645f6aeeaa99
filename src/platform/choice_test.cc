#include "platform/choice.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "platform/call_time.h"

namespace rf::platform {
namespace {

namespace fs = std::filesystem;
using Measured = Setup<double>;  // testing::Test has a Setup of its own

class ChoiceTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "choice-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    path_ = name + "/cache/ringfence/platforms";
  }
  void TearDown() override { fs::remove_all(directory_); }

  ChoiceCache cache(const std::string& key = "key") const { return {path_, key}; }
  void write(const std::string& text) const {
    fs::create_directories(fs::path(path_).parent_path());
    std::ofstream(path_) << text;
  }
  std::string text() const {
    std::ifstream f(path_);
    return {std::istreambuf_iterator<char>(f), {}};
  }

  // Candidates that count how often they were measured.
  std::vector<Candidate> candidates(Measured kvm, Measured trap) {
    return {{Kind::kKvm, [=, this] { return ++measured_, kvm; }},
            {Kind::kTrap, [=, this] { return ++measured_, trap; }}};
  }

  fs::path directory_;
  std::string path_;
  int measured_ = 0;
};

const std::vector<Trial> kBoth = {{Kind::kKvm, 1500, ""}, {Kind::kTrap, 4000.5, ""}};

TEST_F(ChoiceTest, FastestThatWorks) {
  EXPECT_EQ(fastest(kBoth), Kind::kKvm);
  EXPECT_EQ(fastest(std::vector<Trial>{{Kind::kKvm, 9000, ""}, {Kind::kTrap, 4000, ""}}), Kind::kTrap);
  EXPECT_EQ(fastest(std::vector<Trial>{{Kind::kKvm, 0, "broken"}, {Kind::kTrap, 4000, ""}}), Kind::kTrap);
  EXPECT_EQ(fastest(std::vector<Trial>{{Kind::kKvm, 0, "broken"}, {Kind::kTrap, 0, "broken"}}), Kind::kAuto);
  EXPECT_EQ(fastest({}), Kind::kAuto);
}

TEST_F(ChoiceTest, MeasuresOnce) {
  const auto both = candidates(1500, 4000);
  Choice first = choose(both, cache(), false);
  EXPECT_EQ(first.kind, Kind::kKvm);
  EXPECT_FALSE(first.cached);
  EXPECT_EQ(first.cache_obstacle, "");
  EXPECT_EQ(measured_, 2);
  Choice second = choose(both, cache(), true);
  EXPECT_EQ(second.kind, Kind::kKvm);
  EXPECT_TRUE(second.cached);
  EXPECT_EQ(second.trials, first.trials);
  EXPECT_EQ(measured_, 2);
}

TEST_F(ChoiceTest, MeasuresAnewInAnotherBoot) {
  const auto both = candidates(1500, 4000);
  choose(both, cache("before"), false);
  EXPECT_FALSE(choose(both, cache("after"), false).cached);
  EXPECT_EQ(measured_, 4);
}

TEST_F(ChoiceTest, MeasuresAnewWhenTheCandidatesChange) {
  const auto both = candidates(1500, 4000);
  choose({&both[1], 1}, cache(), true);
  EXPECT_EQ(measured_, 1);
  EXPECT_EQ(choose(both, cache(), false).kind, Kind::kKvm);
  EXPECT_EQ(measured_, 3);
}

TEST_F(ChoiceTest, NeedsNoMeasurementOfASingleCandidate) {
  const auto both = candidates(1500, 4000);
  EXPECT_EQ(choose({&both[1], 1}, cache(), false).kind, Kind::kTrap);
  EXPECT_EQ(measured_, 0);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(ChoiceTest, RemembersWhatDoesNotWork) {
  const auto both = candidates(setup_error("it is\nbroken\x1b[2J"), 4000);
  EXPECT_EQ(choose(both, cache(), false).kind, Kind::kTrap);
  const Choice again = choose(both, cache(), false);
  EXPECT_EQ(again.kind, Kind::kTrap);
  ASSERT_TRUE(again.cached);
  EXPECT_EQ(again.trials[0].obstacle, "it is broken [2J");
}

TEST_F(ChoiceTest, DamagedFilesAreNotBelieved) {
  ASSERT_TRUE(cache().store(kBoth));
  const std::string good = text();
  EXPECT_EQ(cache().load(), kBoth);
  for (size_t length = 0; length < good.size(); ++length) {
    write(good.substr(0, length));
    const auto loaded = cache().load();  // a whole line less is fine
    if (loaded) {
      EXPECT_EQ(*loaded, std::vector<Trial>{kBoth[0]});
    }
  }
  const std::string head = good.substr(0, good.find("kvm "));
  for (const char* lines : {"", "\n", "kvm\n", "kvm \n", "kvm -\n", "kvm - \n", "kvm nan\n", "kvm inf\n", "kvm -5\n",
                            "kvm 0\n", "kvm 1e3\n", "kvm 99999999999\n", "kvm 5 5\n", "qemu 5\n", "auto 5\n",
                            "kvm 5\nkvm 6\n", "kvm - \x1b[2J\n", "kvm 5\n\n", "kvm 5"}) {
    write(head + lines);
    EXPECT_FALSE(cache().load()) << lines;
  }
  write(head + std::string(1 << 20, 'x') + "\n");
  EXPECT_FALSE(cache().load());
  write(good + std::string(8192, '\0'));
  EXPECT_FALSE(cache().load());
}

TEST_F(ChoiceTest, OnlyAPlainFileOfOursIsBelieved) {
  const auto both = candidates(1500, 4000);
  ASSERT_TRUE(cache().store(kBoth));
  ASSERT_EQ(::chmod(path_.c_str(), 0666), 0);
  EXPECT_FALSE(cache().load());
  ASSERT_TRUE(cache().store(kBoth));  // replaced, with its mode
  EXPECT_TRUE(cache().load());
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(path_.c_str(), 65534, 65534), 0);
    EXPECT_FALSE(cache().load());
  }
  fs::rename(path_, path_ + ".real");
  fs::create_symlink(path_ + ".real", path_);
  EXPECT_FALSE(cache().load());
  ASSERT_TRUE(cache().store(kBoth));  // replaces the link, not what it points to
  EXPECT_TRUE(cache().load());
  fs::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_FALSE(cache().load());
  fs::remove(path_);
  fs::create_directory(path_);
  EXPECT_FALSE(cache().load());
  const Choice choice = choose(both, cache(), false);
  EXPECT_EQ(choice.kind, Kind::kKvm);
  EXPECT_NE(choice.cache_obstacle, "");
  EXPECT_EQ(std::distance(fs::directory_iterator(fs::path(path_).parent_path()), {}), 2);  // and .real: no remains
}

TEST_F(ChoiceTest, GoesWithoutACache) {
  const auto both = candidates(1500, 4000);
  for (const ChoiceCache& none :
       {ChoiceCache("", "key"), ChoiceCache(path_, ""), ChoiceCache(directory_ / "no/such/directory/platforms", "key"),
        ChoiceCache("/proc/ringfence/platforms", "key")}) {
    const Choice choice = choose(both, none, false);
    EXPECT_EQ(choice.kind, Kind::kKvm);
    EXPECT_NE(choice.cache_obstacle, "");
  }
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(ChoiceTest, MakesNothingInAnotherUsersDirectory) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give directories away";
  ASSERT_EQ(::chown(directory_.c_str(), 65534, 65534), 0);
  EXPECT_FALSE(cache().store(kBoth));
  EXPECT_FALSE(fs::exists(directory_ / "cache"));
  fs::create_directories(fs::path(path_).parent_path());
  ASSERT_EQ(::chown(fs::path(path_).parent_path().c_str(), 65534, 65534), 0);
  EXPECT_FALSE(cache().store(kBoth));
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(ChoiceTest, PathComesFromTheEnvironment) {
  const auto path = [](const char* cache, const char* home) {
    cache ? ::setenv("XDG_CACHE_HOME", cache, 1) : ::unsetenv("XDG_CACHE_HOME");
    home ? ::setenv("HOME", home, 1) : ::unsetenv("HOME");
    return ChoiceCache::default_path();
  };
  EXPECT_EQ(path("/c", "/h"), "/c/ringfence/platforms");
  EXPECT_EQ(path(nullptr, "/h"), "/h/.cache/ringfence/platforms");
  EXPECT_EQ(path("relative", "/h"), "/h/.cache/ringfence/platforms");
  EXPECT_EQ(path("", nullptr), "");
  EXPECT_EQ(path(nullptr, "relative"), "");
}

TEST(CallTimeTest, TrapPlatform) {
  const auto ns = measure_call(Kind::kTrap);
  ASSERT_TRUE(ns) << ns.error().message;
  EXPECT_GT(*ns, 10);
  EXPECT_LT(*ns, 1e8);
}

}  // namespace
}  // namespace rf::platform
