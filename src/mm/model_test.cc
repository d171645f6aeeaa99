// Random calls against a model of what memory is: pages with rights, contents, and sharing.
#include <map>
#include <memory>
#include <random>

#include "mm/mm_fixture.h"
#include "mm/test_objects.h"

namespace rf::mm {
namespace {

constexpr u64 P = kPageSize;
constexpr UserAddr kBase = 0x10'0000'0000;
constexpr u64 kPages = 96;

// The content of a page is told by its first word.
struct ModelPage {
  int prot = 0;
  bool shared = false;
  std::shared_ptr<u64> word;  // one for all mappings of a shared page
  u64 fresh = 0;              // what a private page holds before the first write
};

struct Process {
  Ref<MemoryManager> mm;
  std::map<u64, ModelPage> pages;
};

class ModelTest : public MmTest, public testing::WithParamInterface<unsigned> {
 protected:
  u64 random(u64 n) { return rng_() % n; }
  int random_prot() {
    constexpr int kProts[] = {PROT_NONE,
                              PROT_READ,
                              PROT_READ | PROT_WRITE,
                              PROT_READ | PROT_WRITE,
                              PROT_READ | PROT_WRITE,
                              PROT_READ | PROT_WRITE | PROT_EXEC};
    return kProts[random(std::size(kProts))];
  }
  static UserAddr at(u64 page) { return kBase + page * P; }

  void do_map(Process& p, u64 first, u64 count) {
    bool shared = random(4) == 0;
    bool file = random(4) == 0;
    int prot = random_prot();
    MmapArgs args{.addr = at(first), .len = count * P, .prot = prot, .flags = MAP_FIXED};
    args.flags |= shared ? MAP_SHARED : MAP_PRIVATE;
    // Whether a private mapping shows later changes of the file is not specified: shared mappings, through which it is
    // written, are of its first half.
    u64 offset = random(kPages - count + 1) + (shared ? 0 : kPages);
    if (file) {
      args.object = store_;
      args.offset = offset * P;
    } else {
      args.flags |= MAP_ANONYMOUS;
    }
    ASSERT_EQ(error_of(p.mm->mmap(args)), 0);
    for (u64 i = 0; i < count; i++) {
      std::shared_ptr<u64> word;
      if (file && shared)
        word = file_words_[offset + i];
      else
        word = std::make_shared<u64>(file ? *file_words_[offset + i] : 0);
      p.pages[first + i] = {prot, shared, word, *word};
    }
  }

  void do_unmap(Process& p, u64 first, u64 count) {
    ASSERT_EQ(error_of(p.mm->munmap(at(first), count * P)), 0);
    for (u64 i = first; i < first + count; i++) p.pages.erase(i);
  }

  void do_protect(Process& p, u64 first, u64 count) {
    int prot = random_prot();
    bool whole = true;
    u64 i = first;
    for (; i < first + count && whole; i++) whole = p.pages.contains(i);
    ASSERT_EQ(error_of(p.mm->mprotect(at(first), count * P, prot)), whole ? 0 : ENOMEM);
    for (u64 k = first; k < first + count && p.pages.contains(k); k++) p.pages[k].prot = prot;
  }

  void do_write(Process& p, u64 first, u64 count) {
    for (u64 i = first; i < first + count; i++) {
      u64 value = ++next_value_;
      bool can = p.pages.contains(i) && (p.pages[i].prot & PROT_WRITE) != 0;
      ASSERT_EQ(p.mm->copy_out(at(i), &value, sizeof value), can ? sizeof value : 0);
      if (can) *p.pages[i].word = value;
    }
  }

  void do_discard(Process& p, u64 first, u64 count) {
    (void)p.mm->madvise(at(first), count * P, MADV_DONTNEED);
    for (u64 i = first; i < first + count; i++)
      if (p.pages.contains(i) && !p.pages[i].shared) *p.pages[i].word = p.pages[i].fresh;
  }

  void do_move(Process& p, u64 from, u64 count, u64 to) {
    bool whole = true, overlap = from < to + count && to < from + count;
    for (u64 i = from; i < from + count && whole; i++)
      whole = p.pages.contains(i) && p.pages[i].prot == p.pages[from].prot && p.pages[i].shared == p.pages[from].shared;
    if (!whole || overlap) return;
    auto r = p.mm->mremap(at(from), count * P, count * P, MREMAP_MAYMOVE | MREMAP_FIXED, at(to));
    if (!r) {
      // Alike in the model, several mappings in truth. The target may be gone already.
      EXPECT_EQ(error_of(r), EFAULT);
      for (u64 i = to; i < to + count; i++) p.pages.erase(i);
      return;
    }
    for (u64 i = 0; i < count; i++) {
      p.pages[to + i] = p.pages[from + i];
      p.pages.erase(from + i);
    }
  }

  void do_fork() {
    Process child;
    child.mm = *processes_[0]->mm->fork();
    for (auto& [i, page] : processes_[0]->pages)
      child.pages[i] = {page.prot, page.shared, page.shared ? page.word : std::make_shared<u64>(*page.word),
                        page.fresh};
    if (processes_.size() == 3) processes_.pop_back();
    processes_.push_back(std::make_unique<Process>(std::move(child)));
    if (random(2) == 0) std::swap(processes_.front(), processes_.back());
  }

  void check(Process& p) {
    for (u64 i = 0; i < kPages; i++) {
      auto it = p.pages.find(i);
      u64 value = 0;
      size_t n = p.mm->copy_in(&value, at(i), sizeof value);
      bool readable = it != p.pages.end() && it->second.prot != PROT_NONE;
      ASSERT_EQ(n, readable ? sizeof value : 0) << "page " << i;
      if (readable) {
        ASSERT_EQ(value, *it->second.word) << "page " << i << " of process " << &p;
      }
    }
    // The VMAs cover what the model has, with its rights.
    std::map<u64, int> prots;
    p.mm->for_each_vma(false, [&](const VmaInfo& v) {
      for (UserAddr a = v.start; a < v.end; a += P) prots[(a - kBase) / P] = v.prot;
    });
    ASSERT_EQ(prots.size(), p.pages.size());
    for (auto& [i, prot] : prots) ASSERT_EQ(prot, p.pages[i].prot) << i;
  }

  std::mt19937_64 rng_{GetParam()};
  Ref<StoreObject> store_;
  std::vector<std::shared_ptr<u64>> file_words_;
  std::vector<std::unique_ptr<Process>> processes_;
  u64 next_value_ = 1 << 20;
};

TEST_P(ModelTest, RandomCallsAgree) {
  store_ = make_ref<StoreObject>(*frames_);
  store_->pages.resize(2 * kPages * P);
  for (u64 i = 0; i < 2 * kPages; i++) {
    file_words_.push_back(std::make_shared<u64>(i + 1));
    u64 word = i + 1;
    ASSERT_TRUE(store_->pages.write(i * P, std::as_bytes(std::span(&word, 1))));
  }
  processes_.push_back(std::make_unique<Process>());
  processes_[0]->mm = fresh();
  for (int step = 0; step < 4000; step++) {
    Process& p = *processes_[random(processes_.size())];
    u64 count = 1 + random(24), first = random(kPages - count + 1);
    switch (random(16)) {
      case 0:
      case 1:
      case 2:
        do_map(p, first, count);
        break;
      case 3:
        do_unmap(p, first, count);
        break;
      case 4:
      case 5:
        do_protect(p, first, count);
        break;
      case 6:
        if (random(6) == 0) do_fork();
        break;
      case 7:
        do_discard(p, first, count);
        break;
      case 8:
        do_move(p, first, count, random(kPages - count + 1));
        break;
      default:
        do_write(p, first, count);
        break;
    }
    if (HasFatalFailure()) {
      ADD_FAILURE() << "at step " << step;
      return;
    }
    if (step % 16 == 0) {
      for (auto& q : processes_) check(*q);
      if (HasFatalFailure()) {
        ADD_FAILURE() << "at step " << step;
        return;
      }
    }
  }
  processes_.clear();
}

INSTANTIATE_TEST_SUITE_P(Seeds, ModelTest, testing::Range(1u, 9u));

}  // namespace
}  // namespace rf::mm
