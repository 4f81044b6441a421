// `moe-kernels report`: what it reads, what the page holds, and that nothing in a file becomes part of the page's code.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { besideOthers } from '../../bench/report/beside-others.ts';
import type { Chart } from '../../bench/report/chart.ts';
import { expertLoads } from '../../bench/report/expert-load.ts';
import { renderReport } from '../../bench/report/page.ts';
import { type ReportedProfile, type ReportedResult, readReported } from '../../bench/report/read.ts';
import { roofline } from '../../bench/report/roofline.ts';
import { timeByStage } from '../../bench/report/time-by-stage.ts';
import { THREADS, TOKENS, timeOver } from '../../bench/report/time-over.ts';
import { run, spawn } from '../cli/support/command.ts';
import { temporaryFiles } from '../cli/support/safetensors.ts';
import { RESULT as LINE, PEER_RESULT } from '../support/bench-result.ts';
import { PROFILE as PROFILE_LINE } from '../support/profile-result.ts';

const { folder, write } = temporaryFiles();

const RESULT: ReportedResult = { ...LINE, file: 'run.jsonl' };
const PROFILE: ReportedProfile = { ...PROFILE_LINE, file: 'run.jsonl' };

function lines(...values: readonly object[]): Buffer {
  return Buffer.from(values.map(value => `${JSON.stringify(value)}\n`).join(''));
}

/** The charts as the page's script reads them. */
function drawnIn(page: string): Pick<Chart, 'x' | 'y' | 'series'>[] {
  const embedded = page.matchAll(/<script type="application\/json">(.*?)<\/script>/g);
  return [...embedded].map(([, json]) => JSON.parse(json!));
}

function cells(page: string, row: RegExp): string[] {
  const found = page.split('<tr>').find(text => row.test(text))!;
  return [...found.matchAll(/<t[hd][^>]*>(.*?)<\/t[hd]>/g)].map(([, text]) => text!);
}

describe('what is read', () => {
  test('results of several files in order, with fields that are not known and without those that may lack', () => {
    const { floorMs, flopsPerSecond, bytesPerSecond, ...bare } = LINE;
    const first = write(
      'first.jsonl',
      lines({ ...LINE, later: [{ ratio: 2 }], baseline: { medianMs: 1 } }, bare),
    );
    const second = write('second.jsonl', lines(LINE));
    const { results } = readReported([first, second]);
    expect(results.map(({ file, floorMs }) => [file, floorMs])).toEqual([
      [first, 1],
      [first, undefined],
      [second, 1],
    ]);
    // It was compared with another one.
    expect(results[0]!.baseline).toBeUndefined();
  });

  test('profiles beside results, in one file or another', () => {
    const both = write('both.jsonl', lines(PROFILE_LINE, LINE));
    const alone = write('alone.jsonl', lines(PROFILE_LINE));
    const { results, profiles } = readReported([both, alone]);
    expect(results.map(({ file, flops }) => [file, flops])).toEqual([[both, 4e9]]);
    expect(profiles.map(({ file, stages }) => [file, stages.length])).toEqual([
      [both, 3],
      [alone, 3],
    ]);
  });

  const { medianMs, ...noMedian } = LINE;
  const [stage] = PROFILE_LINE.stages;
  test.each([
    ['a field that lacks', lines(LINE, noMedian), 2, 'none as medianMs'],
    ['text for a number', lines({ ...LINE, tokens: '4' }), 1, '"4" as tokens'],
    ['a floor of no size', lines({ ...LINE, floorMs: 0 }), 1, '0 as floorMs'],
    ['no load', lines({ ...LINE, expertLoad: [] }), 1, '[] as expertLoad'],
    ['no date', lines({ ...LINE, date: 'soon' }), 1, '"soon" as date'],
    ['no JSON', Buffer.from('{"shape"\n'), 1, '"{\\"shape\\""', 'bench or profile'],
    ['no object', Buffer.from('1'), 1, '1', 'bench or profile'],
    ['no total', lines({ ...PROFILE_LINE, totalMs: undefined }), 1, 'none as totalMs', 'profile'],
    ['no stages', lines({ ...PROFILE_LINE, stages: [] }), 1, '[] as stages', 'profile'],
    [
      'a stage of no time',
      lines({ ...PROFILE_LINE, stages: [stage, { ...stage, medianMs: -1 }] }),
      ...[1, 'an array of length 2 as stages', 'profile'],
    ],
  ] as [string, Buffer, number, string, string?][])(
    '%s is refused in one sentence',
    async (name, content, line, got, kind = 'bench') => {
      const file = write(`${name}.jsonl`, content);
      const finished = await run('report', file, '--out', join(folder, 'none.html'));
      const sentence = `file: line ${line} of ${file}: expected a result of moe-kernels ${kind}, got ${got}`;
      expect(finished).toEqual({ exitCode: 2, stdout: '', stderr: `moe-kernels: ${sentence}\n` });
      expect(existsSync(join(folder, 'none.html'))).toBe(false);
    },
  );

  test('nothing is refused in one sentence', async () => {
    const file = write('nothing.jsonl', Buffer.from(''));
    const sentence = `moe-kernels: file: expected results of moe-kernels bench or profile, got none in ${file}\n`;
    expect(await run('report', file)).toEqual({ exitCode: 2, stdout: '', stderr: sentence });
  });

  test('a file that is not there is refused in one sentence', async () => {
    const { exitCode, stderr } = await run('report', '/nowhere/run.jsonl');
    const sentence = 'moe-kernels: file: expected a readable file, got /nowhere/run.jsonl (ENOENT)\n';
    expect([exitCode, stderr]).toEqual([2, sentence]);
  });
});

describe('the page', () => {
  test('fetches nothing', () => {
    const page = renderReport([RESULT]);
    expect(page).toContain(`content="default-src 'none'; `);
    expect(page).not.toMatch(/<(script|img|link|iframe)[^>]+(src|href)="(?!data:)/);
    expect(page).not.toMatch(/@import|url\(/);
  });

  test('says what was measured, in the units above', () => {
    const page = renderReport([RESULT, { ...RESULT, floorMs: undefined, pass: 'backward' }]);
    const row = ['1', 'H 8, I 12, E 4, K 2, swiglu', 'float32', 'forward', '16', '2'];
    expect(cells(page, /95 % interval/)).toEqual([
      ...['Result', 'Layer', 'Dtype', 'Pass', 'T', 'Threads', 'Median (ms)', '95 % interval (ms)'],
      ...['p10–p90 (ms)', 'TFLOP/s', 'GB/s', 'Of the floor'],
    ]);
    expect(cells(page, /row">1</)).toEqual([...row, '2.00', '1.90–2.25', '1.80–3.00', '2.00', '500', '50 %']);
    expect(cells(page, /row">2</).at(-1)).toBe('–');
    expect(cells(page, /A Processor/)).toEqual([
      ...['A Processor', 'cpu', '2', 'avx2', '0.1.0', '2026-01-02 03:04', 'run.jsonl'],
    ]);
  });

  test('names processors, each with its files, where they differ', () => {
    const page = renderReport([RESULT, { ...RESULT, processor: 'Another', file: 'there.jsonl' }]);
    expect(cells(page, /row">Another/)).toEqual(expect.arrayContaining(['Another', 'there.jsonl']));
    expect(cells(page, /row">2</)).toContain('Another');
  });

  test('tells GPUs of one number apart, and graphs', () => {
    const gpu = { ...RESULT, device: 'cuda:0', deviceName: 'A GPU' } as const;
    const graph = { ...gpu, graph: true } as const;
    const page = renderReport([gpu, { ...gpu, deviceName: 'Another' }, graph]);
    expect(cells(page, /row">A Processor/).slice(0, 2)).toEqual(['A Processor', 'cuda:0 (A GPU)']);
    expect(cells(page, /row">2</)).toEqual(expect.arrayContaining(['forward', 'cuda:0 (Another)']));
    expect(cells(page, /row">3</)).toContain('forward graph');
    const [chart] = timeOver(TOKENS, [gpu, graph, { ...gpu, tokens: 1 }, { ...graph, tokens: 1 }]);
    expect(chart!.series.map(({ label }) => label)).toEqual([
      ...['forward', 'floor, forward', 'forward graph', 'floor, forward graph'],
    ]);
  });

  test('every chart says in words what it draws, and has a table', () => {
    const beside = { ...RESULT, tokens: 32, vs: [PEER_RESULT] };
    const page = renderReport([RESULT, beside, { ...RESULT, threads: 1 }]);
    const figures = page.split('<figure>').slice(1);
    expect(figures).toHaveLength(6);
    for (const figure of figures) {
      expect(figure).toMatch(/<figcaption>.+<\/figcaption>/);
      expect(figure).toMatch(/role="img" aria-label=".{20,}"/);
      expect(figure).toMatch(/<details>.+<table>\n<caption>.+<tbody><tr>/s);
    }
  });

  test('about profiles alone has no empty section', () => {
    const page = renderReport([], [PROFILE]);
    expect([...page.matchAll(/<h2>(.*?)<\/h2>/g)].map(([, title]) => title)).toEqual([
      ...['Machine and versions', 'Time by stage'],
    ]);
    expect(cells(page, /A Processor/)).toContain('run.jsonl');
  });

  test('a bar is divided by the shares of its stages, above what the floor is of each', () => {
    const [bar] = renderReport([], [PROFILE]).match(/<svg class="bar".*?<\/svg>/s)!;
    expect(bar).toContain(
      'aria-label="T 16: 8.00 ms, most of it in expertsForward up 50 %, dispatch count 25 %, route logits 13 %"',
    );
    expect(bar).toContain('<title>dispatch count: 2.00 ms, 25.0 %; floor: 200 % of that</title>');
    expect(bar).toContain('<title>between stages: 1.00 ms, 12.5 %</title>');
    const shown = [...bar.matchAll(/<rect class="(\w+)" x="([\d.]+)%" .*?width="([\d.]+)%"/g)];
    expect(shown.map(([, kind, x, width]) => [kind, Number(x), Number(width)])).toEqual([
      ...[
        ['part', 0, 12.5],
        ['floor', 0, 3.125],
      ],
      ...[
        ['part', 12.5, 25],
        ['floor', 12.5, 25],
      ],
      ...[
        ['part', 37.5, 50],
        ['floor', 37.5, 25],
      ],
      ...[
        ['part', 87.5, 12.5],
        ['floor', 87.5, 0],
      ],
    ]);
  });

  test('text of a file stays text', () => {
    const hostile = `</script><b onclick="x">'&`;
    const everywhere = { shape: hostile, processor: hostile, dtype: hostile, file: hostile, device: hostile };
    const others = { instructionSet: hostile, version: hostile, activation: hostile, pass: hostile };
    const result = { ...RESULT, ...everywhere, ...others } as unknown as ReportedResult;
    const stages = [{ op: hostile, stage: hostile, medianMs: 1 }];
    const profile = { ...PROFILE, ...everywhere, ...others, stages } as unknown as ReportedProfile;
    const page = renderReport([result, { ...result, tokens: 32 }, { ...RESULT, shape: 'plain' }], [profile]);
    expect(page).not.toContain('<b ');
    expect(page).toContain('&#60;/script&#62;&#60;b onclick=&#34;x&#34;&#62;&#39;&#38;');
    const charts = drawnIn(page);
    expect(page.match(/<\/script>/g)).toHaveLength(charts.length + 2);
    expect(charts[0]!.series.map(({ label }) => label)).toContainEqual(expect.stringContaining(hostile));
  });
});

describe('the charts', () => {
  test('the roofline: a roof per dtype from the highest ceilings, a numbered point per result', () => {
    const slower = { ...RESULT, threads: 1, flopsPerSecond: 2e12, flops: 2e9, tflops: 1 };
    const noCeilings = { flopsPerSecond: undefined, bytesPerSecond: undefined };
    const { series, table } = roofline([RESULT, slower, { ...RESULT, dtype: 'bfloat16', ...noCeilings }]);
    expect(series.map(({ label, draws }) => [label, draws])).toEqual([
      ['roof, float32', 'line'],
      ['float32', 'points'],
      ['bfloat16', 'points'],
    ]);
    const [roof, points, others] = series;
    expect(roof!.points).toEqual([
      [1, 1000],
      [4, 4000],
      [8, 4000],
    ]);
    expect([points!.points, points!.labels]).toEqual([
      [
        [2, 1000],
        [4, 2000],
      ],
      ['2', '1'],
    ]);
    expect(others!.labels).toEqual(['3']);
    expect(table.rows.map(row => row.at(-1))).toEqual(['4,000', '2,000', '–']);
  });

  test('beside others: a line per peer and dtype it ran in, with its intervals, and ours at 1', () => {
    const result = { ...RESULT, dtype: 'bfloat16', tokens: 32, vs: [PEER_RESULT] } as const;
    const torch = { ...PEER_RESULT, peer: 'torch', dtype: 'bfloat16', ratio: 4, ratioHigh: 5 } as const;
    const one: ReportedResult = { ...result, tokens: 1, vs: [{ ...PEER_RESULT, ratio: 2.4 }, torch] };
    const [chart, ...others] = besideOthers([result, one, RESULT, { ...result, pass: 'both', vs: [] }]);
    expect(others).toEqual([]);
    expect(chart!.title).toBe('Times ours: H 8, I 12, E 4, K 2, swiglu, bfloat16, forward');
    const [low, high] = [2.25, 3];
    expect(chart!.series).toEqual([
      {
        ...{ label: 'ours', colour: 0, draws: 'dashes' },
        points: [
          [0.5, 1],
          [64, 1],
        ],
      },
      {
        ...{ label: 'onnxruntime-node in float32', colour: 1, draws: 'marked' },
        points: [
          [1, 2.4],
          [32, 2.5],
        ],
        intervals: [
          [low, high],
          [low, high],
        ],
      },
      {
        ...{ label: 'torch in bfloat16', colour: 2, draws: 'marked' },
        points: [[1, 4]],
        intervals: [[low, 5]],
      },
    ]);
    const rows = chart!.table.rows.map(row => row.join(' | '));
    expect(rows[1]).toBe('onnxruntime-node in float32 | 1.30.0 | 32 | 2.00 | 5.00 | 2.50 | 2.25–3.00');
    expect(besideOthers([result, { ...result, threads: 1 }])[0]!.series.map(({ label }) => label)).toEqual([
      ...['ours', 'onnxruntime-node in float32, 2 threads', 'onnxruntime-node in float32, 1 thread'],
    ]);
  });

  test('time over tokens: what was measured at several, a line per pass with its floor', () => {
    const named = (tokens: number, change: Partial<ReportedResult> = {}): ReportedResult => ({
      ...{ ...RESULT, tokens, shape: `${tokens},8,12,4,2`, medianMs: tokens, floorMs: tokens / 2 },
      ...change,
    });
    const charts = timeOver(TOKENS, [
      ...[named(64), named(1), named(1, { pass: 'backward', floorMs: undefined })],
      ...[named(1, { dtype: 'bfloat16' }), named(64, { hidden: 16 })],
    ]);
    expect(charts.map(({ title }) => title)).toEqual([
      'Time over tokens: H 8, I 12, E 4, K 2, swiglu, float32',
    ]);
    expect(charts[0]!.summary).toBe(
      'forward: 1.00 ms at 1 token, 64.0 ms at 64 tokens. backward: 1.00 ms at 1 token.',
    );
    expect(charts[0]!.series.map(({ label, draws, points }) => [label, draws, points])).toEqual([
      [
        'forward',
        'marked',
        [
          [1, 1],
          [64, 64],
        ],
      ],
      [
        'floor, forward',
        'dashes',
        [
          [1, 0.5],
          [64, 32],
        ],
      ],
      ['backward', 'marked', [[1, 1]]],
    ]);
    expect([charts[0]!.x.scale, charts[0]!.y.scale]).toEqual(['log2', 'log10']);
  });

  test('lines that differ in threads, device or processor are apart', () => {
    const results = [1, 2].flatMap(threads => [1, 16].map(tokens => ({ ...RESULT, threads, tokens })));
    const labels = timeOver(TOKENS, results)[0]!.series.map(({ label }) => label);
    expect(labels.filter(label => !label.startsWith('floor'))).toEqual([
      'forward, 1 thread',
      'forward, 2 threads',
    ]);
    const [atOne, atSixteen] = timeOver(THREADS, results);
    expect(atOne!.series[0]!.points.map(([threads]) => threads)).toEqual([1, 2]);
    expect(atSixteen!.title).toContain('T 16, ');
    expect(timeOver(THREADS, results.slice(0, 2))).toEqual([]);
  });

  test('the load of the experts, once for all dtypes that were routed alike', () => {
    const otherwise = { ...RESULT, dtype: 'float16' as const, expertLoad: [8, 8, 8, 8] };
    const charts = expertLoads([RESULT, { ...RESULT, dtype: 'bfloat16' }, otherwise]);
    expect(charts.map(({ title }) => title.match(/\((.+)\)$/)![1])).toEqual(['float32, bfloat16', 'float16']);
    const [rows, even] = charts[0]!.series;
    expect(rows!.points.map(([, y]) => y)).toEqual([20, 0, 4, 8]);
    expect(even!.points.every(([, y]) => y === 8)).toBe(true);
  });
});

describe('time by stage', () => {
  const at = (tokens: number, change: Partial<ReportedProfile> = {}) => ({ ...PROFILE, tokens, ...change });

  test('a layer, dtype and pass together, by tokens, named by what differs', () => {
    const groups = timeByStage([at(64), at(1), at(1, { dtype: 'bfloat16' }), at(2, { hidden: 16 })]);
    expect(groups.map(({ title, bars }) => [title, bars.map(({ name }) => name)])).toEqual([
      ['Time by stage: H 8, I 12, E 4, K 2, swiglu, float32, forward', ['T 1', 'T 64']],
      ['Time by stage: H 8, I 12, E 4, K 2, swiglu, bfloat16, forward', ['T 1']],
      ['Time by stage: H 16, I 12, E 4, K 2, swiglu, float32, forward', ['T 2']],
    ]);
    const [again] = timeByStage([at(1), at(1, { threads: 1 }), at(1, { file: 'later.jsonl' })]);
    expect(again!.bars.map(({ name }) => name)).toEqual([
      ...['T 1, 1 thread, run.jsonl', 'T 1, 2 threads, run.jsonl', 'T 1, 2 threads, later.jsonl'],
    ]);
  });

  test('an op has one colour on the page, every stage a place in the key, and the rest comes last', () => {
    const backward = at(1, { pass: 'backward', stages: [{ op: 'fill', medianMs: 0 }, PROFILE.stages[2]!] });
    const fewer = at(1, { stages: PROFILE.stages.slice(0, 2) });
    const [first, second] = timeByStage([at(2), fewer, backward]);
    expect(first!.key).toEqual([
      { name: 'route logits', colour: 0 },
      { name: 'dispatch count', colour: 1 },
      { name: 'expertsForward up', colour: 2 },
      { name: 'between stages', colour: 'muted' },
    ]);
    expect(second!.key.map(({ colour }) => colour)).toEqual([3, 2, 'muted']);
    expect(first!.table.rows.slice(4)).toEqual([
      ['T 2', 'route logits', '1.00', '12.5 %', '25 %'],
      ['T 2', 'dispatch count', '2.00', '25.0 %', '200 %'],
      ['T 2', 'expertsForward up', '4.00', '50.0 %', '50 %'],
      ['T 2', 'between stages', '1.00', '12.5 %', '–'],
      ['T 2', 'total', '8.00', '100.0 %', ''],
    ]);
    expect(second!.table.rows[0]).toEqual(['T 1', 'fill', '0.00', '0.0 %', '–']);
  });
});

describe('the command', () => {
  test('writes a page, on standard output for -', async () => {
    const file = write('run.jsonl', lines(LINE, PROFILE_LINE, PROFILE_LINE));
    const out = join(folder, 'page.html');
    expect(await run('report', file, '--out', out)).toEqual({
      ...{ exitCode: 0, stderr: '', stdout: `${out}: 1 result, 2 profiles\n` },
    });
    const page = readFileSync(out, 'utf8');
    expect(page).toMatch(/^<!doctype html>\n.+<\/html>\n$/s);
    expect(await run('report', file, '--out', '-')).toEqual({ exitCode: 0, stderr: '', stdout: page });
  });

  const other = { ...LINE, processor: 'Another' };
  const taking = (ms: number, { rulers, ...line } = LINE) => ({
    ...{ ...line, medianMs: ms, lowMs: ms, highMs: ms },
  });

  test('sets results beside earlier ones of the same case and processor', async () => {
    const now = [LINE, taking(2, other), taking(2, { ...LINE, pass: 'both' }), { ...LINE, tokens: 1 }];
    const file = write('now.jsonl', lines(...now, PROFILE_LINE));
    const before = [taking(1), taking(10, other), taking(1.9, { ...LINE, pass: 'both' }), PROFILE_LINE];
    const baseline = write('before.jsonl', lines(...before));
    const out = join(folder, 'compared.html');
    const args = ['report', file, '--baseline', baseline, '--out', out, '--json'];
    const { exitCode, stdout } = await run(...args);
    const counts = { results: 4, profiles: 1, verdicts: { slower: 2, faster: 1, same: 0 } };
    expect([exitCode, JSON.parse(stdout)]).toEqual([0, { out, ...counts }]);
    const page = readFileSync(out, 'utf8');
    expect(page).toContain('2 slower, 1 faster, 0 the same, 1 without an earlier result');
    const compared = ['Earlier (ms)', 'Ratio', 'Verdict'];
    expect(cells(page, /95 % interval/).slice(9, 12)).toEqual(compared);
    expect(cells(page, /row">1</).slice(9, 12)).toEqual([
      '1.00',
      '2.00',
      '<span class="slower">slower</span>',
    ]);
    expect(cells(page, /row">2</).slice(9, 12)).toEqual([
      '10.0',
      '0.200',
      '<span class="faster">faster</span>',
    ]);
    expect(cells(page, /row">4</).slice(9, 12)).toEqual(['–', '–', '–']);
    const tolerant = await run(...args, '--tolerance', '6');
    expect(JSON.parse(tolerant.stdout).verdicts).toEqual({ slower: 1, faster: 1, same: 1 });
  });

  test('earlier results of another processor are refused, as JSON for programs', async () => {
    const file = write('here.jsonl', lines(LINE));
    const baseline = write('there.jsonl', lines(other));
    const { exitCode, stdout, stderr } = await run('report', file, '--baseline', baseline, '--json');
    const expected = 'expected results of the same processor, A Processor';
    const message = `--baseline: ${expected}, got those of Another in ${baseline}`;
    expect([exitCode, stdout]).toEqual([2, '']);
    expect(JSON.parse(stderr)).toEqual({ error: { code: 'ERR_UNSUPPORTED', message } });
  });

  test('a place that cannot be written is one sentence', async () => {
    const file = write('run.jsonl', lines(LINE));
    const out = join(folder, 'nowhere/page.html');
    const message = `moe-kernels: --out: expected a writable file, got ${out} (ENOENT)\n`;
    expect(await run('report', file, '--out', out)).toEqual({ exitCode: 2, stdout: '', stderr: message });
  });

  test('needs no native addon', () => {
    const file = write('run.jsonl', lines(LINE));
    const env = { MOE_KERNELS_BINARY: '/nowhere/moe_kernels.node' };
    const { exitCode, stdout } = spawn(['report', file, '--out', '-'], env);
    expect(exitCode).toBe(0);
    expect(stdout).toContain('A Processor');
  });
});
