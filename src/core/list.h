// Intrusive doubly linked lists. An element is in at most one list per ListNode it derives from; the tag
// tells several apart. Lists do not own; elements must be removed before they die (checked).
#pragma once

#include <cstddef>
#include <iterator>

#include "core/check.h"

namespace rf {

template <class Tag = void>
class ListNode {
 public:
  ListNode() = default;
  ListNode(const ListNode&) = delete;
  ListNode& operator=(const ListNode&) = delete;
  ~ListNode() { RF_CHECK(!linked(), "destroyed while in a list"); }

  bool linked() const { return next_ != nullptr; }
  void unlink() {
    prev_->next_ = next_;
    next_->prev_ = prev_;
    next_ = prev_ = nullptr;
  }

 private:
  template <class, class>
  friend class List;
  ListNode* next_ = nullptr;
  ListNode* prev_ = nullptr;
};

template <class T, class Tag = void>
class List {
  using Node = ListNode<Tag>;

 public:
  List() { head_.next_ = head_.prev_ = &head_; }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() {
    RF_CHECK(empty(), "list destroyed with elements in it");
    head_.next_ = head_.prev_ = nullptr;
  }

  class Iterator {
   public:
    using iterator_category = std::bidirectional_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using pointer = T*;
    using reference = T&;
    Iterator() = default;
    T& operator*() const { return *static_cast<T*>(n_); }
    T* operator->() const { return static_cast<T*>(n_); }
    Iterator& operator++() {
      n_ = n_->next_;
      return *this;
    }
    Iterator operator++(int) {
      Iterator i = *this;
      n_ = n_->next_;
      return i;
    }
    Iterator& operator--() {
      n_ = n_->prev_;
      return *this;
    }
    bool operator==(const Iterator&) const = default;

   private:
    friend class List;
    explicit Iterator(Node* n) : n_(n) {}
    Node* n_ = nullptr;
  };

  Iterator begin() const { return Iterator(head_.next_); }
  Iterator end() const { return Iterator(const_cast<Node*>(&head_)); }
  bool empty() const { return head_.next_ == &head_; }
  T& front() const { return *static_cast<T*>(head_.next_); }
  T& back() const { return *static_cast<T*>(head_.prev_); }

  void push_back(T& e) { insert_before(&head_, &e); }
  void push_front(T& e) { insert_before(head_.next_, &e); }
  void insert(Iterator before, T& e) { insert_before(before.n_, &e); }
  // Null when empty.
  T* pop_front() {
    if (empty()) return nullptr;
    T* e = &front();
    static_cast<Node*>(e)->unlink();
    return e;
  }
  static void remove(T& e) { static_cast<Node&>(e).unlink(); }
  // Moves every element of `o` to the end of this list.
  void splice_back(List& o) {
    if (o.empty()) return;
    Node *first = o.head_.next_, *last = o.head_.prev_;
    o.head_.next_ = o.head_.prev_ = &o.head_;
    first->prev_ = head_.prev_;
    head_.prev_->next_ = first;
    last->next_ = &head_;
    head_.prev_ = last;
  }

 private:
  static void insert_before(Node* at, Node* n) {
    RF_CHECK(!n->linked(), "already in a list");
    n->prev_ = at->prev_;
    n->next_ = at;
    at->prev_->next_ = n;
    at->prev_ = n;
  }
  Node head_;
};

}  // namespace rf
