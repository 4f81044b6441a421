// Asks memory for what is read next, a cache line at a time, while something else is computed. Included
// inside an anonymous namespace.

class Prefetcher {
 public:
  explicit Prefetcher(const Ahead& ahead)
      : row_(ahead.rows),
        begin_(ahead.begin),
        end_(ahead.end),
        at_(ahead.begin + ahead.first * kCacheLine),
        left_(ahead.lines) {}

  void next() {
    if (left_ == 0) return;
    --left_;
    fetch(at_);
    if ((at_ += kCacheLine) < end_) return;
    at_ = begin_;
    ++row_;
  }

  template <int Count>
  void next_lines() {
    const int64_t after = at_ + Count * kCacheLine;
    if (left_ >= Count && after < end_) {
#pragma GCC unroll 16
      for (int i = 0; i < Count; ++i) fetch(at_ + i * kCacheLine);
      left_ -= Count;
      at_ = after;
    } else {
      for (int i = 0; i < Count; ++i) next();
    }
  }

 private:
  // Into the second-level cache: the first level is full of panels.
  void fetch(int64_t at) const { __builtin_prefetch(static_cast<const char*>(*row_) + at, 0, 2); }

  const void* const* row_;
  int64_t begin_, end_, at_, left_;
};
