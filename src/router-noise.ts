// Exploration noise of a router in training: its kinds, and how its strength falls.

import { checkInteger, checkKeys, checkNotNegative, checkOneOf } from './check.ts';
import { badArgument } from './errors.ts';

export const NOISE_KINDS = ['jitter', 'gumbel', 'noisyTopK'] as const;
export const ANNEAL_SHAPES = ['linear', 'cosine', 'exponential'] as const;

/**
 * A schedule a(step) from 1 to `to` over `steps` steps, constant afterwards; with p = min(step / steps, 1):
 * linear 1 + (to − 1)·p, cosine to + (1 − to)·(1 + cos πp) / 2, exponential to^p.
 */
export interface Annealing {
  steps: number;
  /** Default 0; above 0 with `exponential`. */
  to?: number;
  /** Default `linear`. */
  shape?: (typeof ANNEAL_SHAPES)[number];
}

interface NoiseSource {
  /** Default 0. Layers that must not share their noise need seeds of their own. */
  seed?: number;
  /** Default: none, a = 1. */
  anneal?: Annealing;
}

/**
 * Noise that a router in training explores with. It is drawn by counter (Philox4x32-10) from the seed, the step, the token and
 * the column alone: the same bits on every backend and for every thread count. u is uniform in (0, 1), a the annealing:
 *
 * - `jitter`: the router sees x · (1 + a·eps·(2u − 1)), the experts see x (Switch, arXiv 2101.03961)
 * - `gumbel`: z + a·scale·(−ln(−ln u)): with scale 1, top-k of the noisy logits draws without replacement from the softmax
 * - `noisyTopK`: z + a·softplus(x · noiseWeightᵀ)·Φ⁻¹(u) (Shazeer 2017, arXiv 1701.06538)
 */
export type RouterNoise = NoiseSource &
  (
    | { kind: 'jitter'; eps: number }
    | { kind: 'gumbel' /** Default 1. */; scale?: number }
    | { kind: 'noisyTopK' }
  );

export interface ResolvedNoise {
  readonly kind: RouterNoise['kind'];
  /** eps, scale, or 1 */
  readonly strength: number;
  readonly seed: number;
  readonly anneal: Readonly<Required<Annealing>> | undefined;
}

/** What each kind is measured by, and the default where it has one. */
const STRENGTHS: Readonly<Record<RouterNoise['kind'], { key?: 'eps' | 'scale'; standard?: number }>> = {
  jitter: { key: 'eps' },
  gumbel: { key: 'scale', standard: 1 },
  noisyTopK: { standard: 1 },
};

export function resolveNoise(name: string, noise: RouterNoise): ResolvedNoise {
  checkKeys(name, noise, ['kind', 'seed', 'anneal', 'eps', 'scale']);
  const kind = checkOneOf(`${name}.kind`, noise.kind, NOISE_KINDS);
  const { key, standard } = STRENGTHS[kind];
  checkKeys(name, noise, ['kind', 'seed', 'anneal', ...(key ? [key] : [])]);
  const strength = key ? ((noise as { eps?: number; scale?: number })[key] ?? standard) : standard;
  return {
    kind,
    strength: checkNotNegative(`${name}.${key}`, strength),
    seed: checkInteger(`${name}.seed`, noise.seed ?? 0, 0, Number.MAX_SAFE_INTEGER),
    anneal: noise.anneal === undefined ? undefined : resolveAnnealing(`${name}.anneal`, noise.anneal),
  };
}

function resolveAnnealing(name: string, anneal: Annealing): Required<Annealing> {
  checkKeys(name, anneal, ['steps', 'to', 'shape']);
  const shape = checkOneOf(`${name}.shape`, anneal.shape ?? 'linear', ANNEAL_SHAPES);
  const to = checkNotNegative(`${name}.to`, anneal.to ?? 0);
  if (shape === 'exponential' && to === 0) {
    throw badArgument('ERR_INVALID_ARGUMENT', `${name}.to`, 'a number above 0 with exponential', '0');
  }
  return { steps: checkInteger(`${name}.steps`, anneal.steps, 1), to, shape };
}

/** The strength at a step: what multiplies the noise. */
export function noiseStrength({ strength, anneal }: ResolvedNoise, step: number): number {
  if (!anneal) return strength;
  const { steps, to, shape } = anneal;
  const progress = Math.min(step / steps, 1);
  const shapes = {
    linear: () => 1 + (to - 1) * progress,
    cosine: () => to + ((1 - to) * (1 + Math.cos(Math.PI * progress))) / 2,
    exponential: () => to ** progress,
  };
  return strength * shapes[shape]();
}
