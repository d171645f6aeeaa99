#include "core/ref.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace rf {
namespace {

struct Object : RefCounted {
  explicit Object(int& deaths) : deaths(deaths) {}
  ~Object() override { deaths++; }
  int& deaths;
};
struct Derived : Object {
  using Object::Object;
};

TEST(RefTest, LastReferenceDestroys) {
  int deaths = 0;
  {
    auto a = make_ref<Object>(deaths);
    EXPECT_EQ(a->ref_count(), 1u);
    Ref<Object> b = a;
    EXPECT_EQ(a->ref_count(), 2u);
    a.reset();
    EXPECT_EQ(deaths, 0);
    Ref<Object> c = std::move(b);
    EXPECT_FALSE(b);  // NOLINT(bugprone-use-after-move): null is what it promises
    EXPECT_EQ(c->ref_count(), 1u);
  }
  EXPECT_EQ(deaths, 1);
}

TEST(RefTest, AdoptAndReleaseMoveTheCount) {
  int deaths = 0;
  Object* raw = make_ref<Object>(deaths).release();
  EXPECT_EQ(deaths, 0);
  Ref<Object>::adopt(raw).reset();
  EXPECT_EQ(deaths, 1);
}

TEST(RefTest, ConvertsUpAndCastsDown) {
  int deaths = 0;
  Ref<Object> base = make_ref<Derived>(deaths);
  EXPECT_TRUE(ref_cast<Derived>(base));
  Ref<Object> plain = make_ref<Object>(deaths);
  EXPECT_FALSE(ref_cast<Derived>(plain));
  EXPECT_EQ(base->ref_count(), 1u);
}

TEST(RefTest, TryRefFailsOnceTheCountIsZero) {
  struct Zombie : RefCounted {
    void last_unref() override {}  // the memory stays
    ~Zombie() override = default;
  };
  Zombie z;
  EXPECT_TRUE(z.try_ref());
  z.unref();
  z.unref();
  EXPECT_FALSE(z.try_ref());
}

TEST(RefTest, CountsFromManyThreads) {
  int deaths = 0;
  auto object = make_ref<Object>(deaths);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++)
    threads.emplace_back([object] {
      for (int i = 0; i < 10000; i++) Ref<Object> copy = object;  // NOLINT(performance-unnecessary-copy-initialization)
    });
  object.reset();
  for (auto& t : threads) t.join();
  threads.clear();
  EXPECT_EQ(deaths, 1);
}

}  // namespace
}  // namespace rf
