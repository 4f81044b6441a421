// What is there at once may be handed out at once, without a turn of the event loop. But promises that resolve at once keep timers,
// input and finalizers waiting: so only for a moment in each turn.

const MOMENT_MS = 1;

let turnBegan: number | undefined;

/** Whether this turn of the event loop may go on. */
export function mayAnswerAtOnce(): boolean {
  const now = performance.now();
  if (turnBegan === undefined) {
    turnBegan = now;
    setImmediate(() => {
      turnBegan = undefined;
    });
  }
  return now - turnBegan < MOMENT_MS;
}
