/** What tables call a stage, or an op that has none. */
export function stageName({ op, stage }: { readonly op: string; readonly stage?: string }): string {
  return stage === undefined ? op : `${op} ${stage}`;
}
