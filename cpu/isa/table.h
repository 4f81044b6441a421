// All kernels of one instruction set, written once over V. A translation unit defines V and kTileRows, then
// includes this inside an anonymous namespace: code compiled for one processor must never be linked into
// another's table, so nothing here may have external linkage, and nothing may call inline functions that do.

#include "cpu/isa/math.h"
#include "cpu/isa/units.h"
// The rest builds on it.
#include "cpu/isa/activations.h"
#include "cpu/isa/epilogues.h"
#include "cpu/isa/prefetch.h"
// Packing and products build on units.
#include "cpu/isa/pack.h"
// Products of few rows transpose as packing does.
#include "cpu/isa/few_rows.h"
#include "cpu/isa/quads.h"
#include "cpu/isa/route_token.h"
#include "cpu/isa/rows.h"
#include "cpu/isa/tile_product.h"

// How rows in which the steps of k lie side by side are transposed: by whole lines.
struct WholeLines {
  static constexpr int kMostRowsBesideLanes = 11;
  template <class Units, class T>
  static constexpr void add(Kernels& table, PanelKind kind, DType source) {
    table.pack_k_contiguous[static_cast<int>(kind)][static_cast<int>(source)] = pack_k_contiguous<Units, T>;
    if constexpr (Units::template kChains<T> == 1) {
      fill_few_rows<Units, T>(table.few_rows_product[static_cast<int>(kind)][static_cast<int>(source)],
                              std::make_integer_sequence<int, kTileRows>{});
    }
  }
};

// What reads B, or A, as it is stored.
template <class Transposing, class Units, class T>
constexpr void add_source(Kernels& table, PanelKind kind, DType source) {
  table.pack_lanes_contiguous[static_cast<int>(kind)][static_cast<int>(source)] =
      pack_lanes_contiguous<Units, T>;
  Transposing::template add<Units, T>(table, kind, source);
  if constexpr (Units::template kChains<T> > 1) {
    fill_quads<T>(table.few_rows_product[static_cast<int>(kind)][static_cast<int>(source)],
                  std::make_integer_sequence<int, kTileRows>{});
  }
}

template <class Units>
constexpr void add_products(Kernels& table, PanelKind kind) {
  fill_tile_products<Units>(table.tile_product[static_cast<int>(kind)],
                            std::make_integer_sequence<int, kTileRows>{});
}

template <class Transposing = WholeLines>
constexpr Kernels make_kernels(const char* name) {
  Kernels table = {};
  table.name = name;
  table.width = V::kWidth;
  table.tile_rows = kTileRows;
  table.most_rows_beside_lanes = Transposing::kMostRowsBesideLanes;
  add_products<FloatUnits>(table, PanelKind::floats);
  add_source<Transposing, FloatUnits, float>(table, PanelKind::floats, DType::float32);
  add_source<Transposing, FloatUnits, bfloat16>(table, PanelKind::floats, DType::bfloat16);
  add_source<Transposing, FloatUnits, float16>(table, PanelKind::floats, DType::float16);
  table.pack_words[static_cast<int>(DType::float32)] = pack_words<float>;
  table.pack_words[static_cast<int>(DType::bfloat16)] = pack_words<bfloat16>;
  table.pack_words[static_cast<int>(DType::float16)] = pack_words<float16>;
  table.store = store;
  table.settle = V::settle;
  table.activate = activate;
  table.activate_backward = activate_backward;
  table.sum_rows = sum_rows;
  table.dot = dot;
  table.cast = cast;
  table.route_token = route_token;
  table.route_token_backward = route_token_backward;
  table.expert_shares = expert_shares;
  table.softmax = softmax;
  return table;
}
