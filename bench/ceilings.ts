// What the machine reaches at most, measured beside what is timed, and the least time that a layer could take on it.

import type { FloatDType } from '../src/dtype.ts';
import { enumIndex, native } from '../src/native.ts';
import { bytes, flops, type LayerShape, type Pass } from './shapes.ts';

export interface Ceilings {
  /** Floating-point operations a second, of products of one dtype. */
  readonly flopsPerSecond: number;
  /** Bytes a second, read from memory. */
  readonly bytesPerSecond: number;
}

/** Of the CPU, with every thread: register tiles on panels that stay in the first-level cache, and reads beyond every cache. */
export function measureCeilings(dtype: FloatDType, seconds = 0.2): Ceilings {
  const found = native.ceilings(enumIndex('dtype', dtype), seconds);
  return { flopsPerSecond: found.flops, bytesPerSecond: found.bytes };
}

export interface FloorOptions {
  readonly shape: LayerShape;
  readonly pass: Pass;
  readonly elementBytes: number;
  /** Experts that any token reaches. */
  readonly touchedExperts: number;
}

/** Milliseconds: the larger of FLOPs ÷ peak and bytes ÷ bandwidth. */
export function floorMs(options: FloorOptions, { flopsPerSecond, bytesPerSecond }: Ceilings): number {
  const { shape, pass, elementBytes, touchedExperts } = options;
  const computing = flops(shape, pass) / flopsPerSecond;
  const moving = bytes(shape, pass, elementBytes, touchedExperts) / bytesPerSecond;
  return 1000 * Math.max(computing, moving);
}
