// Asks memory for what is read next, a cache line at a time, while something else is computed. Included
// inside an anonymous namespace.

class Prefetcher {
 public:
  explicit Prefetcher(const AheadShare& share) : of_(share.of) {
    if (of_ == nullptr) return;
    ahead_ = *of_;
    left_ = min_of(share.lines, ahead_.lines);
    ahead_.lines -= left_;
  }
  // What was not asked for is left to others.
  ~Prefetcher() {
    if (of_ == nullptr) return;
    *of_ = ahead_;
    of_->lines += left_;
  }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  void next() {
    if (left_ == 0) return;
    --left_;
    fetch<1>();
    if ((ahead_.at += kCacheLine) < ahead_.end) return;
    ahead_.at = ahead_.begin;
    ++ahead_.row;
  }

  template <int Count>
  void next_lines() {
    const int64_t after = ahead_.at + Count * kCacheLine;
    if (left_ >= Count && after < ahead_.end) {
      fetch<Count>();
      left_ -= Count;
      ahead_.at = after;
    } else {
      for (int i = 0; i < Count; ++i) next();
    }
  }

 private:
  // Into the second-level cache: the first level is full of panels.
  template <int Count>
  void fetch() const {
    constexpr int64_t kPage = 4096;
    static_assert(Count * kCacheLine <= kPage);
    const char* const line = static_cast<const char*>(*ahead_.row) + ahead_.at;
    if (ahead_.pages) {
      const char* const page = line + (-reinterpret_cast<intptr_t>(line) & (kPage - 1));
      if (page < line + Count * kCacheLine) __builtin_prefetch(page, 0, 2);
      return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) __builtin_prefetch(line + i * kCacheLine, 0, 2);
  }

  Ahead* const of_;
  Ahead ahead_;
  int64_t left_ = 0;
};
