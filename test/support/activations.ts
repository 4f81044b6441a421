// Activations with numbers of their own: limits that cut off a good part of unit-scale pre-activations.

import type { Activation } from '../../src/index.ts';
import type { ActivationNumbers } from '../reference/activation.ts';

export interface ActivationForm extends ActivationNumbers {
  activation: Activation;
}

export const CLAMPS: readonly ActivationForm[] = [
  { activation: 'swiglu', activationLimit: 0.75 },
  { activation: 'swiglu_clamped', activationLimit: 0.875 },
  { activation: 'swiglu_clamped', activationLimit: 0.5, activationAlpha: 0.75, activationUpShift: -0.375 },
  { activation: 'swiglu_clamped', activationLimit: 40, activationAlpha: 1.702, activationUpShift: 0 },
];

export const activationTitle = ({ activation, ...numbers }: ActivationForm): string =>
  [activation, ...Object.entries(numbers).map(([name, value]) => `${name} ${value}`)].join(', ');
