// Every way a layer can be put together, beside its router and its activation: what the weights multiply, experts that
// compute nothing, experts that every token shares, and rows that find no place.

import { columnsPerOutput } from '../reference/activation.ts';
import type { LayerCase, LoraRanks } from './layer.ts';

export type LayerVariant = Partial<LayerCase>;

export const LAYERS: readonly LayerVariant[] = [
  { applyWeightTo: 'input' },
  { applyWeightTo: 'input', activation: 'relu2', router: { score: 'sigmoid', scale: 1.5 } },
  { applyWeightTo: 'input', separate: true, router: { normalize: true, capacity: { tokensPerExpert: 3 } } },
  { identityExperts: 1 },
  { identityExperts: 6, topK: 4, router: { selectionBias: true, normalize: true, expertScale: true } },
  { identityExperts: 3, applyWeightTo: 'input', router: { capacity: { tokensPerExpert: 2 } } },
  { shared: { intermediate: 4 } },
  { shared: { intermediate: 7, gate: 'sigmoid' }, activation: 'relu' },
  { shared: { intermediate: 1, gate: 'sigmoid' }, activation: 'swiglu_clamped', activationLimit: 0.8 },
  { shared: { intermediate: 5 }, given: (t, k) => (t * (k + 1)) % 6 },
  {
    shared: { intermediate: 9, gate: 'sigmoid' },
    identityExperts: 2,
    applyWeightTo: 'input',
    router: {
      score: 'sqrtsoftplus',
      selectionBias: true,
      expertScale: true,
      capacity: { tokensPerExpert: 2 },
    },
  },
];

const ARRANGEMENTS: readonly LayerVariant[] = [
  {},
  { gateUpLayout: 'interleaved' },
  { separate: true },
  { activation: 'relu2' },
];

/** Every layout of the experts' matrices but the plain one. */
export const LAYOUTS: readonly LayerVariant[] = ARRANGEMENTS.flatMap(arrangement => [
  arrangement,
  { ...arrangement, transposed: true },
]).filter(({ gateUpLayout, separate, transposed }) => gateUpLayout || separate || transposed);

const RANKS: Required<LoraRanks> = { gate_up: 5, gate: 3, up: 6, down: 4 };

/** The layer with low-rank pairs beside every subset of its matrices, each of another rank. */
export function withPairs(layer: LayerVariant): readonly LayerVariant[] {
  const gated = columnsPerOutput(layer.activation ?? 'swiglu') === 2;
  const ups = gated ? (layer.separate ? (['gate', 'up'] as const) : (['gate_up'] as const)) : ['up' as const];
  const matrices = [...ups, 'down' as const];
  return Array.from({ length: 2 ** matrices.length - 1 }, (_, i) => {
    const chosen = matrices.filter((__, bit) => (i + 1) & (1 << bit));
    const lora = Object.fromEntries(chosen.map(matrix => [matrix, RANKS[matrix]]));
    return { ...layer, lora, loraScale: 0.75 };
  });
}

/** Low-rank pairs in the layout that every other one is a rearrangement of, and where gate and up have their own. */
export const LORAS: readonly LayerVariant[] = [
  {},
  { separate: true },
  { activation: 'gelu' as const },
].flatMap(withPairs);

const GATES: readonly LayerVariant[] = [undefined, 'sigmoid' as const, 'weights' as const].flatMap(gate =>
  [undefined, 1, 2, 5].map(count => ({ shared: { intermediate: 7, count, gate } })),
);

/** Shared experts, one and several, weighed in every way. */
export const SHARED: readonly LayerVariant[] = [
  ...GATES,
  { shared: { intermediate: 3, count: 3, gate: 'sigmoid' }, sharedWeights: true },
  { shared: { intermediate: 3, gate: 'sigmoid' }, sharedWeights: true, activation: 'relu' },
  { shared: { intermediate: 9, count: 2, gate: 'weights' }, activation: 'gelu_tanh', identityExperts: 2 },
  { shared: { intermediate: 1, count: 3, gate: 'sigmoid' }, given: (t, k) => (t + k) % 6 },
  {
    ...{ shared: { intermediate: 6, count: 2 }, applyWeightTo: 'input' },
    ...{ gateUpLayout: 'interleaved', transposed: true },
  },
  { shared: { intermediate: 4, count: 2, gate: 'sigmoid' }, lora: { gate_up: 3, down: 3 } },
];

export const layerTitle = (layer: LayerVariant): string =>
  Object.entries(layer)
    .map(([key, value]) => `${key} ${typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join(', ');
