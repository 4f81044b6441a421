// What a campaign measures, and what its cases are called.

import { describe, expect, it } from 'vitest';
import { caseKey, expandSweep, groupByLayer, type Sweep } from '../../bench/campaign.ts';
import { SHAPES } from '../../bench/shapes.ts';

const mixtral = { shape: 'mixtral-mini', ...SHAPES['mixtral-mini']! };
const base: Sweep = {
  ...{ shapes: [mixtral], dtypes: ['bfloat16'], threads: [2], passes: ['forward'] },
  ...{ device: 'cpu', tf32: false, graph: 'off', caches: ['cold'] },
};
const keys = (sweep: Partial<Sweep>) => expandSweep({ ...base, ...sweep }).map(caseKey);

describe('the key of a case', () => {
  it('names all that tells cases apart', () => {
    expect(keys({ shapes: [{ ...mixtral, tokens: 16 }] })).toEqual([
      'mixtral-mini T16 bfloat16 forward cpu 2 threads',
    ]);
    expect(keys({ shapes: [{ ...mixtral, activation: 'relu' }], threads: [1] })).toEqual([
      'mixtral-mini T512 relu bfloat16 forward cpu 1 thread',
    ]);
    expect(keys({ shapes: [{ shape: 'switch-mini', ...SHAPES['switch-mini']! }] })).toEqual([
      'switch-mini T2048 bfloat16 forward cpu 2 threads',
    ]);
  });

  it('names a router that is not the shape’s own', () => {
    const router = 'sigmoid';
    expect(keys({ shapes: [mixtral, { ...mixtral, router }] })).toEqual([
      'mixtral-mini T512 bfloat16 forward cpu 2 threads',
      'mixtral-mini T512 sigmoid bfloat16 forward cpu 2 threads',
    ]);
    const both = expandSweep({ ...base, shapes: [mixtral, { ...mixtral, router }] });
    expect(groupByLayer(both)).toHaveLength(2);
  });

  it('names tf32 where it changes what is computed', () => {
    expect(keys({ dtypes: ['float32', 'bfloat16'], device: 'cuda:0', tf32: true })).toEqual([
      'mixtral-mini T512 float32 tf32 forward cuda:0 2 threads',
      'mixtral-mini T512 bfloat16 forward cuda:0 2 threads',
    ]);
    expect(keys({ dtypes: ['float32'], tf32: true })).toEqual([
      'mixtral-mini T512 float32 forward cpu 2 threads',
    ]);
  });

  it('names a graph', () => {
    expect(keys({ device: 'cuda:0', graph: 'both' })).toEqual([
      'mixtral-mini T512 bfloat16 forward cuda:0 2 threads',
      'mixtral-mini T512 bfloat16 forward graph cuda:0 2 threads',
    ]);
    expect(keys({ device: 'cuda:0', graph: 'on' })).toEqual([
      'mixtral-mini T512 bfloat16 forward graph cuda:0 2 threads',
    ]);
  });
});

it.each(['cpu', 'cuda:0'] as const)('the key of a case whose weights are cached says so, on %s', device => {
  expect(keys({ caches: ['cold', 'warm'], device })).toEqual([
    `mixtral-mini T512 bfloat16 forward ${device} 2 threads`,
    `mixtral-mini T512 bfloat16 forward ${device} 2 threads warm`,
  ]);
});

describe('a sweep', () => {
  it('is the product of its values, cases of a layer together', () => {
    const cases = expandSweep({
      ...base,
      ...{ shapes: [mixtral, { ...mixtral, tokens: 1 }], dtypes: ['bfloat16', 'float32'] },
      ...{ threads: [1, 2], passes: ['forward', 'both'] },
    });
    expect(new Set(cases.map(caseKey)).size).toBe(16);
    expect(groupByLayer(cases)).toEqual([0, 4, 8, 12].map(start => cases.slice(start, start + 4)));
  });

  it('counts what it names twice once', () => {
    expect(keys({ shapes: [mixtral, { ...mixtral, tokens: 1 }, mixtral], threads: [2, 2] })).toHaveLength(2);
  });
});
