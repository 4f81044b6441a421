// Every way a layer can be put together, beside its router and its activation: what the weights multiply, experts that
// compute nothing, experts that every token shares, and rows that find no place.

import type { LayerCase } from './layer.ts';

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

export const layerTitle = (layer: LayerVariant): string =>
  Object.entries(layer)
    .map(([key, value]) => `${key} ${typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join(', ');
