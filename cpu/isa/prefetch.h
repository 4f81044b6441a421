// Asks memory for what is read next, cache lines at a time, while something else is computed: into the
// second-level cache, for the first level is full of panels. Included inside an anonymous namespace.

inline void prefetch_line(const char* line) {
  __builtin_prefetch(line, 0, 2);
}

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
  void next() {
    if (left_ == 0) return;
    --left_;
    fetch<1>();
    if ((ahead_.at += kCacheLine) < ahead_.end) return;
    ahead_.at = ahead_.begin;
    ++ahead_.row;
  }

  template <int Count>
  void fetch() const {
    constexpr int64_t kPage = 4096;
    static_assert(Count * kCacheLine <= kPage);
    const char* const line = static_cast<const char*>(*ahead_.row) + ahead_.at;
    if (ahead_.pages) {
      const char* const page = line + (-reinterpret_cast<intptr_t>(line) & (kPage - 1));
      if (page < line + Count * kCacheLine) prefetch_line(page);
      return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) prefetch_line(line + i * kCacheLine);
  }

  Ahead* const of_;
  Ahead ahead_;
  int64_t left_ = 0;
};

// Asks for its share evenly over so many turns, at most a line in each: asked faster than memory answers, a
// core waits for it. Never for pages alone.
class PacedPrefetcher {
 public:
  PacedPrefetcher(const AheadShare& share, int64_t turns)
      : of_(share.of), turns_(turns), until_next_(turns - 1) {
    if (of_ == nullptr) return;
    lines_ = min_of(min_of(share.lines, of_->lines), turns);
    row_ = of_->row;
    begin_ = of_->begin;
    end_ = of_->end;
    at_ = of_->at;
  }
  // After the last turn.
  ~PacedPrefetcher() {
    if (of_ == nullptr) return;
    of_->row = row_;
    of_->at = at_;
    of_->lines -= lines_;
  }
  PacedPrefetcher(const PacedPrefetcher&) = delete;
  PacedPrefetcher& operator=(const PacedPrefetcher&) = delete;

  void turn() {
    if ((until_next_ -= lines_) >= 0) [[likely]]
      return;
    until_next_ += turns_;
    prefetch_line(static_cast<const char*>(*row_) + at_);
    if ((at_ += kCacheLine) < end_) return;
    at_ = begin_;
    ++row_;
  }

 private:
  Ahead* const of_;
  const int64_t turns_;
  int64_t until_next_;  // in turns times lines
  int64_t lines_ = 0;
  const void* const* row_ = nullptr;
  int64_t begin_ = 0, end_ = 0, at_ = 0;
};

// While memory is busy it drops what it is asked for. So a line of stored rows that are multiplied on their
// way is asked for twice: a tile ahead, in the order of addresses, and again when so many bytes of all rows
// that are read side by side come before it, when an answer that came costs little.
inline constexpr int64_t kBytesAskedAgain = 4096;

// The rows that are multiplied after these, with which a list begins that nobody has asked for yet; or null.
struct NextRows {
  explicit NextRows(const AheadShare& share) {
    if (share.of == nullptr) return;
    const int64_t lines = (share.of->end - share.of->begin + kCacheLine - 1) / kCacheLine;
    if (share.of->lines < V::kWidth * lines) return;  // Fewer rows than lanes.
    rows = share.of->row;
    begin = share.of->begin;
  }

  const void* const* rows = nullptr;
  int64_t begin = 0;  // in bytes
};
