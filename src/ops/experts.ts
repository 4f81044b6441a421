// The experts' parameters, in either published layout, and the checks that both directions share.

import { type Activation, isGated } from '../activation.ts';
import { checkKeys, checkTensor } from '../check.ts';
import type { FloatDType } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import type { Tensor } from '../tensor.ts';

/**
 * Weights of E experts, one dtype. Gated experts give `gateUp` (gate rows first, then up rows), or `gate` and `up`; ungated
 * ones give `up` alone. Biases come in the same arrangement, float32 or the weights' dtype.
 */
export interface Experts {
  /** [E, 2I, H] */
  gateUp?: Tensor;
  /** [E, I, H] */
  gate?: Tensor;
  /** [E, I, H] */
  up?: Tensor;
  /** [E, H, I] */
  down: Tensor;
  /** [E, 2I] */
  gateUpBias?: Tensor;
  /** [E, I] */
  gateBias?: Tensor;
  /** [E, I] */
  upBias?: Tensor;
  /** [E, H] */
  downBias?: Tensor;
}

/** Names of the experts' parameters, and of their gradients. */
export const EXPERT_NAMES = [
  'gateUp',
  'gate',
  'up',
  'down',
  'gateUpBias',
  'gateBias',
  'upBias',
  'downBias',
] as const;
export type ExpertName = (typeof EXPERT_NAMES)[number];

export interface ExpertDims {
  readonly experts: number;
  readonly hidden: number;
  readonly intermediate: number;
}

/** Checks the experts against each other, the activation, and x's dtype and width; returns their dimensions. */
export function checkExperts(
  experts: Experts,
  activation: Activation,
  dtype: FloatDType,
  hidden: number,
): ExpertDims {
  checkKeys('experts', experts, EXPERT_NAMES);
  const given = EXPERT_NAMES.filter(name => experts[name] !== undefined);
  const packed = experts.gateUp !== undefined;
  const names = !isGated(activation) ? ['up'] : packed ? ['gateUp'] : ['gate', 'up'];
  const biasNames = names.map(name => `${name}Bias`);
  for (const name of [...names, 'down']) {
    if (!given.includes(name as ExpertName)) {
      throw badArgument(
        'ERR_INVALID_ARGUMENT',
        `experts.${name}`,
        `a tensor, for ${activation}`,
        'undefined',
      );
    }
  }
  for (const name of given) {
    if (![...names, ...biasNames, 'down', 'downBias'].includes(name)) {
      const expected = `only ${[...names, 'down'].join(', ')} and their biases, for ${activation}`;
      throw badArgument('ERR_INVALID_ARGUMENT', 'experts', expected, name);
    }
  }
  const missingBias = biasNames.filter(name => !given.includes(name as ExpertName));
  if (missingBias.length > 0 && missingBias.length < biasNames.length) {
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      `experts.${missingBias[0]}`,
      'a bias beside the other half’s',
      'undefined',
    );
  }
  const down = checkTensor('experts.down', experts.down, { dtype, shape: [null, hidden, null] });
  const [count, , intermediate] = down.shape as [number, number, number];
  if (count < 1) throw badArgument('ERR_SHAPE', 'experts.down', 'at least one expert', '0');
  const upWidth = packed ? 2 * intermediate : intermediate;
  for (const name of names) {
    checkTensor(`experts.${name}`, experts[name as ExpertName], { dtype, shape: [count, upWidth, hidden] });
  }
  const biasDType = ['float32', dtype] as const;
  for (const name of given.filter(name => name.endsWith('Bias'))) {
    const width = name === 'downBias' ? hidden : upWidth;
    checkTensor(`experts.${name}`, experts[name], { dtype: biasDType, shape: [count, width] });
  }
  return { experts: count, hidden, intermediate };
}
