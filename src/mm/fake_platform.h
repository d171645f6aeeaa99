// For tests: a platform whose page tables are a map and that runs no guest code.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "core/check.h"
#include "platform/platform.h"

namespace rf::mm {

// Checks what mm promises: nothing present is mapped over, changes are committed before the next lock holder looks.
class FakeAddressSpace final : public platform::AddressSpace {
 public:
  struct Entry {
    platform::Phys phys;
    platform::Prot prot;
  };

  explicit FakeAddressSpace(bool lazily) : lazily_(lazily) {}
  bool maps_lazily() const override { return lazily_; }

  Result<void> map(u64 va, platform::Phys phys, u64 len, platform::Prot prot) override {
    RF_CHECK(page_aligned(va) && page_aligned(phys) && page_aligned(len) && len != 0 && prot.any(), "a wild map()");
    RF_CHECK(va + len <= platform::kGuestAddressLimit, "map() above the guest's limit");
    for (u64 i = 0; i < len; i += kPageSize) {
      if (tables_left_ && (*tables_left_)-- == 0) {
        tables_left_ = 0;
        return err(ENOMEM);
      }
      auto [it, fresh] = pages_.try_emplace(va + i, Entry{phys + i, prot});
      if (fresh) continue;
      const platform::Prot& old = it->second.prot;
      RF_CHECK(it->second.phys == phys + i && (!old.write || prot.write) && (!old.exec || prot.exec),
               "mapping over a page that is still mapped");
      it->second.prot = prot;
    }
    return {};
  }

  void unmap(u64 va, u64 len, platform::Invalidation& inval) override {
    auto it = pages_.lower_bound(va);
    while (it != pages_.end() && it->first < va + len) {
      inval.ranges.push_back({it->first, it->second.phys, kPageSize});
      it = pages_.erase(it);
    }
  }

  void protect(u64 va, u64 len, platform::Prot prot, platform::Invalidation& inval) override {
    RF_CHECK(prot.any(), "protect() to nothing");
    for (auto it = pages_.lower_bound(va); it != pages_.end() && it->first < va + len; ++it) {
      if (it->second.prot == prot) continue;
      inval.ranges.push_back({it->first, it->second.phys, kPageSize});
      it->second.prot = prot;
    }
  }

  void commit(platform::Invalidation& inval) override {
    if (!inval.empty()) commits_++;
    inval.ranges.clear();
  }

  Mapping lookup(u64 va) const override {
    auto it = pages_.find(page_down(va));
    if (it == pages_.end()) return {};
    return {it->second.phys + (va & kPageMask), it->second.prot};
  }

  void for_each(u64 va, u64 len,
                const std::function<void(u64, platform::Phys, u64, platform::Prot)>& f) const override {
    for (auto it = pages_.lower_bound(va); it != pages_.end() && it->first < va + len; ++it)
      f(it->first, it->second.phys, kPageSize, it->second.prot);
  }

  size_t present() const { return pages_.size(); }
  size_t commits() const { return commits_; }
  // Makes map() fail after `n` more pages.
  void fail_after(u64 n) { tables_left_ = n; }
  void stop_failing() { tables_left_.reset(); }

 private:
  const bool lazily_;
  std::map<u64, Entry> pages_;
  size_t commits_ = 0;
  std::optional<u64> tables_left_;
};

class FakePlatform final : public platform::Platform {
 public:
  FakePlatform() {
    capabilities_.name = "fake";
    capabilities_.fp_size = 2696;
    capabilities_.fsgsbase = true;
  }
  const platform::Capabilities& capabilities() const override { return capabilities_; }
  Result<std::unique_ptr<platform::AddressSpace>> create_address_space() override {
    return std::make_unique<FakeAddressSpace>(maps_lazily);
  }
  Result<std::unique_ptr<platform::Context>> create_context() override { return err(ENOSYS); }
  platform::PlatformStats stats() const override { return {}; }

  bool maps_lazily = false;  // of address spaces made from now on

 private:
  platform::Capabilities capabilities_;
};

}  // namespace rf::mm
