// Where the time of one layer goes: a workload made, checked against the reference, then run again and again with its stages
// recorded. On the CPU alone.

import { backendInfo, trimMemory } from '../src/device.ts';
import { DTYPES, type FloatDType } from '../src/dtype.ts';
import type { NativeOp } from '../src/native.ts';
import { packageVersion } from '../src/package.ts';
import { type Ceilings, floorMs, measureCeilings } from './ceilings.ts';
import { type MeasureOptions, measure, type Timing, timingOf } from './measure.ts';
import { checkMemory } from './memory.ts';
import { processorName } from './processor.ts';
import { checkResult, type MeasuredPass, measuredPass } from './run.ts';
import type { LayerShape, Pass } from './shapes.ts';
import { type RecordedCall, recordCall, spanMs, withoutWholes } from './spans.ts';
import { type StageCost, type StageCosts, stageCosts } from './stage-costs.ts';
import { median } from './statistics.ts';
import { Workload } from './workload.ts';

export interface ProfileOptions extends MeasureOptions {
  /** What results call the shape. */
  readonly name: string;
  readonly shape: LayerShape;
  readonly dtype: FloatDType;
  readonly passes: readonly Pass[];
}

/** A stage of an op; what is not known of a stage's cost is absent. */
export interface StageResult extends Partial<StageCost> {
  readonly op: NativeOp;
  /** Absent where the op has none. */
  readonly stage?: string;
  /** Of the stage's time in each run. */
  readonly medianMs: number;
  /** The least time that this machine's ceilings allow. */
  readonly floorMs?: number;
}

export interface ProfileResult extends LayerShape, Timing, Ceilings {
  /** What the shape is called. */
  readonly shape: string;
  readonly dtype: FloatDType;
  readonly device: 'cpu';
  readonly pass: Pass;
  readonly threads: number;
  /** In the order in which they run. */
  readonly stages: readonly StageResult[];
  /** Median of what no stage covers: checks, workspaces, the queue, the call. */
  readonly betweenMs: number;
  /** The sum of the medians of all stages and of what is between them; the median of the whole, `medianMs`, is another number. */
  readonly totalMs: number;
  readonly instructionSet: string;
  /** As its maker calls it. */
  readonly processor: string;
  /** Of this package. */
  readonly version: string;
  /** When it was measured, as ISO 8601. */
  readonly date: string;
}

export interface Profile {
  readonly result: ProfileResult;
  readonly runs: readonly RecordedCall[];
}

/**
 * Yields a profile for each pass, once the workload's outputs have been found right.
 * @throws WrongResult if they are not; MoeError, ERR_OUT_OF_MEMORY among them if the layer would not fit
 */
export async function* runProfile(options: ProfileOptions): AsyncGenerator<Profile> {
  const { name, shape, dtype, passes } = options;
  const backward = passes.some(pass => pass !== 'forward');
  checkMemory(shape, backward);
  using workload = new Workload(shape, dtype, 'cpu');
  await checkResult(workload, backward);
  const ceilings = measureCeilings(dtype);
  const ceilingsOf: CeilingsOf = {
    layer: ceilings,
    float32: dtype === 'float32' ? ceilings : measureCeilings('float32'),
  };
  trimMemory();
  for (const pass of passes) {
    const { runs, touchedExperts } = await record(measuredPass([workload], pass), options);
    const elementBytes = DTYPES[dtype].bytes;
    const costs = stageCosts({ shape, elementBytes, touchedExperts, saves: pass !== 'forward' });
    const { threads, instructionSet } = backendInfo();
    const result: ProfileResult = {
      ...{ shape: name, dtype, device: 'cpu', pass, threads },
      ...timingOf(runs.map(({ elapsedMs }) => elapsedMs)),
      ...summarise(runs, costs, ceilingsOf),
      ...ceilings,
      ...shape,
      ...{ instructionSet, processor: processorName(), version: packageVersion() },
      date: new Date().toISOString(),
    };
    yield { result, runs };
  }
}

/** The runs that count, after those to warm up, and how many experts any token reached. */
async function record(
  pass: MeasuredPass,
  options: MeasureOptions,
): Promise<{ runs: RecordedCall[]; touchedExperts: number }> {
  const runs: RecordedCall[] = [];
  let touchedExperts = 0;
  const { runs: counted } = await measure(
    {
      prepare: pass.prepare,
      run: () => {
        runs.push(recordCall(pass.run));
      },
      clear: () => {
        const { counts } = pass.made().forward.routing;
        touchedExperts = (counts.dataSync() as Int32Array).filter(rows => rows > 0).length;
        pass.clear();
      },
    },
    options,
  );
  return { runs: runs.slice(-counted), touchedExperts };
}

/** Of the layer's own products, and of those that are in float32 whatever its dtype is. */
interface CeilingsOf {
  readonly layer: Ceilings;
  readonly float32: Ceilings;
}

/** The median of each stage and of the rest over runs, which all have the same stages. */
export function summarise(
  runs: readonly RecordedCall[],
  costs: StageCosts,
  ceilings: CeilingsOf,
): Pick<ProfileResult, 'stages' | 'betweenMs' | 'totalMs'> {
  const times = new Map<string, { op: NativeOp; stage?: string; perRun: number[] }>();
  const between: number[] = [];
  for (const [index, { elapsedMs, spans }] of runs.entries()) {
    let rest = elapsedMs;
    for (const span of withoutWholes(spans)) {
      const { op, stage } = span;
      const key = `${op} ${stage}`;
      if (!times.has(key)) times.set(key, { op, ...(stage && { stage }), perRun: runs.map(() => 0) });
      times.get(key)!.perRun[index]! += spanMs(span);
      rest -= spanMs(span);
    }
    between.push(rest);
  }
  const stages = [...times.values()].map(({ op, stage, perRun }): StageResult => {
    const cost = stage === undefined ? undefined : costs[op]?.[stage];
    const floor = cost && floorMs(cost, cost.inFloat32 ? ceilings.float32 : ceilings.layer);
    return {
      ...{ op, ...(stage && { stage }), medianMs: median(perRun) },
      ...(cost && { ...cost, floorMs: floor }),
    };
  });
  const betweenMs = median(between);
  return { stages, betweenMs, totalMs: stages.reduce((sum, { medianMs }) => sum + medianMs, betweenMs) };
}
