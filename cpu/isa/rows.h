// Whole rows: weighted sums, dot products, conversion. Bound by bytes. Included inside an anonymous namespace
// after V.

// Lanes are taken in blocks of four registers, so that each row contributes whole cache lines.
template <class T, class Out>
void sum_rows_of(const SumRowsArgs& args) {
  constexpr int kBlock = 4;
  Out* out = static_cast<Out*>(args.out);
  for (int64_t lane = 0; lane < args.width; lane += kBlock * V::kWidth) {
    F sum[kBlock] = {V::zero(), V::zero(), V::zero(), V::zero()};
    int n[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      const int64_t left = args.width - lane - i * V::kWidth;
      n[i] = static_cast<int>(left > V::kWidth ? V::kWidth : left > 0 ? left : 0);
    }
    const bool whole = n[kBlock - 1] == V::kWidth;
    for (int64_t j = 0; j < args.count; ++j) {
      const T* row = static_cast<const T*>(args.rows[j]) + lane;
      const F weight = V::set(args.weights != nullptr ? args.weights[j] : 1.0f);
      for (int i = 0; i < kBlock && n[i] > 0; ++i) {
        const F x = whole ? V::load(row + i * V::kWidth) : V::load_n(row + i * V::kWidth, n[i]);
        sum[i] = V::fma(weight, x, sum[i]);
      }
    }
    for (int i = 0; i < kBlock && n[i] > 0; ++i) {
      Out* to = out + lane + i * V::kWidth;
      V::store_n(to, args.accumulate ? V::add(V::load_n(to, n[i]), sum[i]) : sum[i], n[i]);
    }
  }
}

void sum_rows(const SumRowsArgs& args) {
  with_float_type(args.dtype, [&](auto tag) {
    with_float_type(args.out_dtype, [&](auto out_tag) {
      sum_rows_of<typename decltype(tag)::type, typename decltype(out_tag)::type>(args);
    });
  });
}

float dot(const void* a, DType a_dtype, const void* b, DType b_dtype, int64_t width) {
  float result = 0;
  with_float_type(a_dtype, [&](auto a_tag) {
    with_float_type(b_dtype, [&](auto b_tag) {
      const auto* x = static_cast<const typename decltype(a_tag)::type*>(a);
      const auto* y = static_cast<const typename decltype(b_tag)::type*>(b);
      F sum[2] = {V::zero(), V::zero()};
      int64_t lane = 0;
      for (int turn = 0; lane < width; lane += V::kWidth, turn ^= 1) {
        const int n = static_cast<int>(min_of(V::kWidth, width - lane));
        sum[turn] = V::fma(V::load_n(x + lane, n), V::load_n(y + lane, n), sum[turn]);
      }
      result = V::sum(V::add(sum[0], sum[1]));
    });
  });
  return result;
}

template <class T, class Out>
void convert(const T* source, Out* out, int64_t count) {
  for (int64_t i = 0; i < count; i += V::kWidth) {
    const int n = static_cast<int>(min_of(V::kWidth, count - i));
    V::store_n(out + i, V::load_n(source + i, n), n);
  }
}

void convert_from_int32(const int32_t* source, float* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(source[i]);
}

// Rounds to nearest even. What int32 cannot hold, for which C++ defines no result, saturates; NaN becomes 0.
void convert_to_int32(const float* source, int32_t* out, int64_t count) {
  constexpr float kLimit = 2147483648.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float x = source[i];
    if (x >= kLimit) {
      out[i] = INT32_MAX;
    } else if (x < -kLimit) {
      out[i] = INT32_MIN;
    } else {
      out[i] = x == x ? static_cast<int32_t>(__builtin_rintf(x)) : 0;
    }
  }
}

void cast(const void* source, DType source_dtype, void* out, DType out_dtype, int64_t count) {
  if (source_dtype == out_dtype) {
    std::memcpy(out, source, static_cast<size_t>(count) * bytes_of(out_dtype));
  } else if (source_dtype == DType::int32) {
    convert_from_int32(static_cast<const int32_t*>(source), static_cast<float*>(out), count);
  } else if (out_dtype == DType::int32) {
    convert_to_int32(static_cast<const float*>(source), static_cast<int32_t*>(out), count);
  } else {
    with_float_type(source_dtype, [&](auto tag) {
      with_float_type(out_dtype, [&](auto out_tag) {
        convert(static_cast<const typename decltype(tag)::type*>(source),
                static_cast<typename decltype(out_tag)::type*>(out), count);
      });
    });
  }
}
