#include "core/list.h"

#include <gtest/gtest.h>

#include <vector>

namespace rf {
namespace {

struct OtherTag;
struct Item : ListNode<>, ListNode<OtherTag> {
  explicit Item(int v) : value(v) {}
  int value;
};

template <class Tag>
std::vector<int> values(const List<Item, Tag>& list) {
  std::vector<int> v;
  for (Item& i : list) v.push_back(i.value);
  return v;
}

TEST(ListTest, KeepsOrderAtBothEnds) {
  List<Item> list;
  Item a(1), b(2), c(3);
  list.push_back(b);
  list.push_back(c);
  list.push_front(a);
  EXPECT_EQ(values(list), (std::vector{1, 2, 3}));
  EXPECT_EQ(list.front().value, 1);
  EXPECT_EQ(list.back().value, 3);
  EXPECT_EQ(list.pop_front(), &a);
  List<Item>::remove(c);
  EXPECT_EQ(list.pop_front(), &b);
  EXPECT_EQ(list.pop_front(), nullptr);
}

TEST(ListTest, AnElementIsInOneListPerTag) {
  List<Item> one;
  List<Item, OtherTag> two;
  Item a(1), b(2);
  one.push_back(a);
  one.push_back(b);
  two.push_back(b);
  two.push_back(a);
  EXPECT_EQ(values(one), (std::vector{1, 2}));
  EXPECT_EQ(values(two), (std::vector{2, 1}));
  List<Item>::remove(a);
  EXPECT_FALSE(a.ListNode<>::linked());
  EXPECT_TRUE(a.ListNode<OtherTag>::linked());
  one.pop_front();
  two.pop_front();
  two.pop_front();
}

TEST(ListTest, SpliceMovesEverythingToTheEnd) {
  List<Item> x, y;
  Item a(1), b(2), c(3);
  x.push_back(a);
  y.push_back(b);
  y.push_back(c);
  x.splice_back(y);
  EXPECT_TRUE(y.empty());
  EXPECT_EQ(values(x), (std::vector{1, 2, 3}));
  x.splice_back(y);
  EXPECT_EQ(values(x), (std::vector{1, 2, 3}));
  while (x.pop_front()) {
  }
}

TEST(ListTest, InsertGoesBeforeTheIterator) {
  List<Item> list;
  Item a(1), b(2), c(3);
  list.push_back(a);
  list.push_back(c);
  auto it = list.begin();
  list.insert(++it, b);
  EXPECT_EQ(values(list), (std::vector{1, 2, 3}));
  while (list.pop_front()) {
  }
}

TEST(ListDeathTest, InsertingTwiceIsABrokenInvariant) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  List<Item> list;
  Item a(1);
  list.push_back(a);
  EXPECT_EXIT(list.push_back(a), testing::ExitedWithCode(125), "already in a list.*no fiber");
  list.pop_front();
}

}  // namespace
}  // namespace rf
