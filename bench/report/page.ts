// One HTML page about results: everything in it, nothing fetched.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { packageRoot } from '../../src/package.ts';
import { partName } from '../describe-layer.ts';
import { groupBy } from '../group-by.ts';
import { countVerdicts } from '../verdict.ts';
import { besideOthers } from './beside-others.ts';
import { renderChart } from './chart.ts';
import { expertLoads } from './expert-load.ts';
import { Html, html, renderTable, type Table } from './html.ts';
import type { ReportedProfile, ReportedResult } from './read.ts';
import { roofline } from './roofline.ts';
import { renderStageBars, timeByStage } from './time-by-stage.ts';
import { THREADS, TOKENS, timeOver } from './time-over.ts';
import { deviceLabel, differ, layerName, measured, percent } from './words.ts';

/** Of one result or profile at least. */
export function renderReport(
  results: readonly ReportedResult[],
  profiles: readonly ReportedProfile[] = [],
): string {
  const title = 'Mixture-of-Experts layers, measured';
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>${library('uPlot.min.css')}
${ownFile('page.css')}</style>
</head>
<body>
<header><h1>${title}</h1></header>
<main>
<section><h2>Machine and versions</h2>${renderTable(machines([...results, ...profiles]))}</section>
${results.length === 0 ? '' : html`<section class="results"><h2>Results</h2>${verdicts(results)}${renderTable(summary(results))}</section>`}
${section('Roofline', results.length === 0 ? [] : [renderChart(roofline(results))])}
${section('Beside others', besideOthers(results).map(renderChart))}
${section('Time over tokens', timeOver(TOKENS, results).map(renderChart))}
${section('Time over threads', timeOver(THREADS, results).map(renderChart))}
${section('Time by stage', timeByStage(profiles).map(renderStageBars), ABOUT_STAGES)}
${section('Load of the experts', expertLoads(results).map(renderChart))}
</main>
<script>${library('uPlot.iife.min.js')}</script>
<script>${ownFile('page.client.js')}</script>
</body>
</html>
`.text;
}

const ABOUT_STAGES = html`<p>What a layer does, in order from left to right. The strip below a stage is its floor, the least time that the machine’s
ceilings allow: where it is as long as the stage, there is nothing to gain.</p>`;

function section(title: string, figures: readonly Html[], about = html``): Html {
  if (figures.length === 0) return html``;
  return html`<section><h2>${title}</h2>${about}<div class="charts">${figures}</div></section>`;
}

function library(name: string): Html {
  return new Html(readFileSync(createRequire(import.meta.url).resolve(`uplot/dist/${name}`), 'utf8'));
}

function ownFile(name: string): Html {
  return new Html(readFileSync(join(packageRoot(), 'bench/report', name), 'utf8'));
}

function machines(results: readonly Measured[]): Table {
  const groups = groupBy(results, result =>
    [result.processor, result.instructionSet, result.version, deviceLabel(result)].join('\n'),
  );
  return {
    caption: 'What was measured, where and when',
    head: ['Processor', 'Device', 'Threads', 'Instruction set', 'moe-kernels', 'Measured (UTC)', 'Files'],
    names: 7,
    rows: groups.map(group => [
      ...[group[0]!.processor, deviceLabel(group[0]!)],
      list(group.map(({ threads }) => threads).sort((a, b) => a - b)),
      ...[group[0]!.instructionSet, group[0]!.version, period(group), list(group.map(({ file }) => file))],
    ]),
  };
}

type Measured = ReportedResult | ReportedProfile;

function list(values: readonly (string | number)[]): string {
  return [...new Set(values)].join(', ');
}

function period(results: readonly Measured[]): string {
  const minutes = results
    .map(({ date }) => new Date(date).toISOString().slice(0, 16).replace('T', ' '))
    .sort();
  return [...new Set([minutes[0]!, minutes.at(-1)!])].join(' to ');
}

function summary(results: readonly ReportedResult[]): Table {
  const processors = differ(results, ({ processor }) => processor);
  const devices = differ(results, deviceLabel);
  const compared = results.some(({ baseline }) => baseline);
  return {
    caption: 'The median with its interval of 95 % confidence, and the 10th to 90th percentile of all runs',
    head: [
      ...['Result', 'Layer', 'Dtype', 'Pass'],
      ...(devices ? ['Device'] : []),
      ...(processors ? ['Processor'] : []),
      ...['T', 'Threads', 'Median (ms)', '95 % interval (ms)'],
      ...(compared ? ['Earlier (ms)', 'Ratio', 'Verdict'] : []),
      ...['p10–p90 (ms)', 'TFLOP/s', 'GB/s', 'Of the floor'],
    ],
    names: 4 + Number(devices) + Number(processors),
    rows: results.map((result, i) => [
      ...[`${i + 1}`, layerName(result), result.dtype, partName(result)],
      ...(devices ? [deviceLabel(result)] : []),
      ...(processors ? [result.processor] : []),
      ...[`${result.tokens}`, `${result.threads}`, measured(result.medianMs)],
      range(result.lowMs, result.highMs),
      ...(compared ? besideBaseline(result) : []),
      ...[range(result.p10Ms, result.p90Ms), measured(result.tflops)],
      ...[measured(result.bytes / result.medianMs / 1e6), share(result)],
    ]),
  };
}

function besideBaseline({ baseline }: ReportedResult): (string | Html)[] {
  if (!baseline) return ['–', '–', '–'];
  const { medianMs, ratio, verdict } = baseline;
  return [measured(medianMs), measured(ratio), html`<span class="${verdict}">${verdict}</span>`];
}

/** What the column of verdicts comes to. */
function verdicts(results: readonly ReportedResult[]): Html {
  const { slower, faster, same } = countVerdicts(results);
  const absent = results.length - slower - faster - same;
  if (absent === results.length) return html``;
  const rest = absent === 0 ? '' : `, ${absent} without an earlier result`;
  return html`<p>Beside earlier results: ${slower} slower, ${faster} faster, ${same} the same${rest}.</p>`;
}

function range(from: number, to: number): string {
  return `${measured(from)}–${measured(to)}`;
}

function share({ floorMs, medianMs }: ReportedResult): string {
  return floorMs === undefined ? '–' : percent(floorMs / medianMs);
}
