import Core
import IO
import StateKit
import Synchronization
import Telemetry

/// One try of one step: probe, record intent, act, verify, record outcome.
struct StepExecution: Sendable {
  enum Result: Sendable {
    case succeeded(JSONValue)
    /// This try failed. Nothing is recorded: whether there is another is for the caller to decide.
    case failed(Report)
    /// The task was cancelled. The intent, if there is one, stays without an outcome.
    case cancelled
    /// The journal refused or can't be reached: nobody may go on.
    case journal(JournalError)
  }

  let run: RunID
  let spec: StepSpec
  let handler: (any StepHandler)?
  let lease: Lease
  /// As it was before this try.
  let record: StepRecord
  let outputs: [StepID: JSONValue]
  let journal: any RunJournal
  let time: any Timekeeper
  let randomness: any Randomness
  let observer: RunObserver
  /// Test hook of the suite that must find what goes wrong without it.
  var probes = true
  /// What its act gets of the processors; the journal's writes are no part of it.
  var share: WorkShare?

  func attempt() async -> Result {
    guard let handler else { return .failed(StepError.unknownKind(spec.kind, spec.id).report) }
    let number = record.attempt + 1
    observer(.stepStarted(run, spec.id, attempt: number))
    let bytes = Mutex<Int64?>(nil)
    do {
      return try await limited(handler.retry.attemptLimit) {
        try await perform(handler, number: number) { done in
          bytes.withLock { $0 = max($0 ?? 0, done) }
        } measuredBytes: {
          bytes.withLock { $0 }
        }
      }
    } catch let error as JournalError where error != .cancelled {
      return .journal(error)
    } catch is CancellationError {
      return Task.isCancelled ? .cancelled : .failed(AnyFailure(CancellationError()).report)
    } catch {
      return Task.isCancelled ? .cancelled : .failed(AnyFailure(error).report)
    }
  }

  private func perform(
    _ handler: any StepHandler, number: Int, note: @escaping @Sendable (Int64) -> Void,
    measuredBytes: () -> Int64?
  ) async throws -> Result {
    let context = context(number: number, note: note)
    let (started, startedMonotonic) = (time.now(), time.monotonicNanoseconds())
    func measurement(wasFoundDone: Bool) -> Measurement {
      Measurement(
        startedAt: started, finishedAt: time.now(), startedMonotonicNanoseconds: startedMonotonic,
        finishedMonotonicNanoseconds: time.monotonicNanoseconds(), bytes: measuredBytes(), wasFoundDone: wasFoundDone)
    }
    if probes, let output = try await handler.probe(spec.input, in: context) {
      try await handler.verify(output, of: spec.input, in: context)
      return try await succeed(output, measurement(wasFoundDone: true))
    }
    try await journal.recordIntent(spec.id, attempt: number, under: lease)
    let output = try await WorkShare.$current.withValue(share) {
      let output = try await handler.run(spec.input, in: context)
      try await handler.verify(output, of: spec.input, in: context)
      return output
    }
    return try await succeed(output, measurement(wasFoundDone: false))
  }

  private func succeed(_ output: JSONValue, _ measurement: Measurement) async throws -> Result {
    let outcome = StepOutcome.succeeded(output, measurement)
    try await journal.recordOutcome(spec.id, outcome, under: lease)
    observer(.stepFinished(run, spec.id, outcome))
    return .succeeded(output)
  }

  func context(number: Int, note: @escaping @Sendable (Int64) -> Void = { _ in }) -> StepContext {
    let (run, step, observer, journal, lease) = (run, spec.id, observer, journal, lease)
    return StepContext(
      run: run, step: step, attempt: number, fence: lease.fence, isReplay: record.state == .intended,
      outputs: outputs, time: time, randomness: randomness,
      progress: { progress in
        if let done = progress.doneBytes { note(done) }
        observer(.stepProgress(run, step, progress))
      },
      log: { observer(.stepLog(run, step, $0)) },
      confirmLease: { () async throws(JournalError) in
        let head = try await journal.load(run).head
        try head.require(lease)
      })
  }

  private func limited(_ limit: Duration?, _ body: @escaping @Sendable () async throws -> Result) async throws -> Result
  {
    guard let limit else { return try await body() }
    return try await time.withTimeLimit(limit, body)
  }
}
