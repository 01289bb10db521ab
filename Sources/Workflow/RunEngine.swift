import Core
import StateKit

/// Carries runs out so that a crash at any moment loses nothing.
///
/// For each step: probe, record intent, act, verify, record outcome. A claim with a fence keeps two engines from acting
/// on one run; it is renewed for as long as steps run, and losing it ends them all at once.
package struct RunEngine: Sendable {
  /// What an engine is given.
  package struct Options: Sendable {
    /// Who claims.
    package var holder: Holder
    /// How long a claim lasts without being renewed, and so how long a crashed controller blocks its run.
    package var leasePeriod: Duration = .seconds(15)
    /// How long to wait for somebody else's claim to lapse before giving up.
    package var patience: Duration = .zero
    /// How many steps may run at once, by resource.
    package var limits: [String: Int] = [:]
    /// How many steps may run at once in all.
    package var parallelism = 4

    package init(holder: Holder) { self.holder = holder }
  }

  let journal: any RunJournal
  let handlers: [StepKind: any StepHandler]
  let time: any Timekeeper
  let randomness: any Randomness
  let options: Options
  let observer: RunObserver
  /// Off only where a test shows what goes wrong then.
  var probes = true

  package init(
    journal: any RunJournal, handlers: [any StepHandler], time: any Timekeeper, randomness: any Randomness,
    options: Options, observer: @escaping RunObserver = { _ in }
  ) {
    self.journal = journal
    self.handlers = Dictionary(handlers.map { ($0.kind, $0) }, uniquingKeysWith: { _, last in last })
    (self.time, self.randomness, self.options, self.observer) = (time, randomness, options, observer)
  }

  /// Writes a run down and carries it out. A run of that plan that was begun before is taken up where it was left.
  @discardableResult
  package func start(_ spec: RunSpec) async throws(RunError) -> RunRecord {
    do { try await journal.create(spec) } catch { throw .journal(spec.id, error) }
    return try await execute(spec.id)
  }

  /// Takes a run up where it was left, forwards or backwards. A settled run is returned as it stands.
  ///
  /// - Returns: The settled run: look at its state. A run that failed is not an error here.
  /// - Throws: ``RunError`` if the run could not be brought to an end; it can be taken up again.
  @discardableResult
  package func execute(_ run: RunID) async throws(RunError) -> RunRecord {
    try await work(on: run, wanted: "taken up") { state in state.isSettled ? nil : .asItStands }
  }

  /// As ``execute(_:)``, and a failed run gets another try: what failed or was skipped waits anew.
  @discardableResult
  package func resume(_ run: RunID) async throws(RunError) -> RunRecord {
    try await work(on: run, wanted: "resumed") { state in
      switch state {
      case .failed: .reopened
      case let state where state.isSettled: nil
      default: .asItStands
      }
    }
  }

  /// Undoes a run, last step first; one that succeeded too, as long as the state it kept was not released.
  @discardableResult
  package func rollback(_ run: RunID) async throws(RunError) -> RunRecord {
    try await work(on: run, wanted: "rolled back") { state in
      switch state {
      case .rolledBack: nil
      case .rollingBack: .asItStands
      case let state where state.mayBecome(.rollingBack): .rolledBack
      default: .refused
      }
    }
  }

  /// Says that the state a run kept for its rollback was given up: ``RunState/released``; or that nobody will take it
  /// up any more: ``RunState/abandoned``. Changes nothing else.
  @discardableResult
  package func settle(_ run: RunID, as state: RunState) async throws(RunError) -> RunRecord {
    try await work(on: run, wanted: state.rawValue) { current in
      if current == state { return nil }
      return state.isSettled && current.mayBecome(state) ? .settled(state) : .refused
    }
  }

  // MARK: Under a claim

  private enum Way {
    case asItStands
    case reopened
    case rolledBack
    case settled(RunState)
    case refused
  }

  /// - Parameter way: `nil` if there is nothing to do.
  private func work(
    on run: RunID, wanted: String, _ way: @Sendable (RunState) -> Way?
  ) async throws(RunError) -> RunRecord {
    do {
      let before = try await journal.load(run)
      switch way(before.state) {
      case nil: return before
      case .refused: throw RunError.notPossible(run, before.state, wanted: wanted)
      default: break
      }
      let lease = try await claim(run)
      // Another controller may have been at work until the claim.
      let record = try await journal.load(run)
      let result: Result<Void, any Error>
      do {
        result = .success(try await carryOut(record, way(record.state), wanted: wanted, under: lease))
      } catch {
        result = .failure(error)
      }
      // Best effort: a claim that can't be given back lapses.
      try? await journal.release(lease)
      try result.get()
      return try await journal.load(run)
    } catch let error as RunError {
      throw error
    } catch let error as JournalError {
      throw error == .cancelled ? .interrupted(run) : .journal(run, error)
    } catch {
      throw .interrupted(run)
    }
  }

  private func carryOut(_ record: RunRecord, _ way: Way?, wanted: String, under lease: Lease) async throws {
    let run = record.spec.id
    switch way {
    case nil: return
    case .refused: throw RunError.notPossible(run, record.state, wanted: wanted)
    case .settled(let state): try await change(run, to: state, under: lease)
    case .asItStands: break
    case .reopened:
      try await journal.reopen(lease)
      observer(.runChanged(run, .running, nil))
    case .rolledBack: try await change(run, to: .rollingBack, because: record.head.failure, under: lease)
    }
    if case .settled = way { return }
    if try await journal.load(run).state == .pending { try await change(run, to: .running, under: lease) }
    let keeper = LeaseKeeper(lease, journal: journal, time: time)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { try await keeper.hold() }
      group.addTask {
        let execution = RunExecution(engine: self, lease: lease)
        try await execution.carryOut(try await journal.load(run))
      }
      // The keeper only ever throws; the first to end is the run, or the claim's loss.
      defer { group.cancelAll() }
      try await group.next()
    }
  }

  func change(_ run: RunID, to state: RunState, because report: Report? = nil, under lease: Lease) async throws {
    try await journal.setState(state, because: report, under: lease)
    observer(.runChanged(run, state, report))
  }

  private func claim(_ run: RunID) async throws -> Lease {
    let deadline = time.now() + options.patience
    while true {
      let refusal: JournalError
      do {
        return try await journal.claim(run, as: options.holder, for: options.leasePeriod)
      } catch {
        refusal = error
      }
      let now = time.now()
      guard case .leaseHeld(_, _, let until) = refusal, now < deadline else { throw refusal }
      try await time.sleep(for: max(.milliseconds(1), min(until - now, deadline - now, .seconds(1))))
    }
  }
}
