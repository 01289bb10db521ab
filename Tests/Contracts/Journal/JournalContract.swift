import Core
import StateKit
import Testing

/// Opens the journal under test, and opens it anew as another process would after the first was killed.
package struct JournalFixture: Sendable {
  package typealias Gone = @Sendable (Holder) -> Bool

  package var time: SimulatedTime
  package var open: @Sendable (_ time: any Timekeeper, _ isGone: @escaping Gone) async throws -> any RunJournal

  package init(
    time: SimulatedTime = SimulatedTime(),
    open: @escaping @Sendable (_ time: any Timekeeper, _ isGone: @escaping Gone) async throws -> any RunJournal
  ) {
    (self.time, self.open) = (time, open)
  }

  func journal(isGone: @escaping Gone = { _ in false }) async throws -> any RunJournal { try await open(time, isGone) }
}

/// What every journal promises; each case is one test against each journal.
package enum JournalPromise: String, CaseIterable, Sendable {
  case createIsIdempotent = "the same plan twice is one run"
  case otherPlanIsRefused = "another plan under the same id is refused"
  case senselessPlanIsRefused = "a plan with a circle, a twin or a loose end is refused"
  case unknownRunIsNamed = "an unknown run is named as such"
  case claimGrowsFence = "every claim has a higher fence"
  case claimIsExclusive = "a claim keeps others out until it lapses"
  case deadHolderGivesWay = "the claim of a dead holder lapses at once"
  case releaseFreesAtOnce = "a released run can be claimed at once, and not written by its last holder"
  case concurrentClaimsHaveOneWinner = "of many who claim at once one wins"
  case lowerFenceIsRefused = "every write with a lower fence is refused and changes nothing"
  case renewalKeepsClaim = "a renewed claim lasts; a lapsed one can be renewed until somebody takes over"
  case attemptsCountOn = "attempts count on without a hole"
  case outcomeIsKept = "an outcome is kept, and repeating it changes nothing"
  case otherOutcomeIsRefused = "a second, other outcome is refused"
  case skipNeedsInnocence = "what may have acted can't be skipped"
  case compensationNeedsRollback = "compensation needs a run that is rolling back"
  case statesFollowTheMap = "a run only moves along the map of states"
  case reopenWaitsAnew = "a reopened run waits for what failed and was skipped, and forgets no act"
  case historyIsMeasured = "history has what was done, newest first, by kind, store and service"
  case listIsNewestFirst = "runs are listed newest first, by kind and state"
  case auditIsChained = "every write is on the audit chain"
  case appendNeedsNewestFence = "an audit entry under a lease needs the newest fence"
  case storesHaveOneRun = "of the runs that replace one store, one at a time is unfinished or at work"
  case readersKeepRunsOut = "who reads a store keeps runs that replace it out, until that lapses"
  case runsKeepReadersOut = "a run at work, or half done, keeps readers of its stores out"
  case storesGoToOne = "of readers and runs that come at once one side wins"

  package func check(_ fixture: JournalFixture) async throws {
    switch self {
    case .createIsIdempotent: try await createIsIdempotent(fixture)
    case .otherPlanIsRefused: try await otherPlanIsRefused(fixture)
    case .senselessPlanIsRefused: try await senselessPlanIsRefused(fixture)
    case .unknownRunIsNamed: try await unknownRunIsNamed(fixture)
    case .claimGrowsFence: try await claimGrowsFence(fixture)
    case .claimIsExclusive: try await claimIsExclusive(fixture)
    case .deadHolderGivesWay: try await deadHolderGivesWay(fixture)
    case .releaseFreesAtOnce: try await releaseFreesAtOnce(fixture)
    case .concurrentClaimsHaveOneWinner: try await concurrentClaimsHaveOneWinner(fixture)
    case .lowerFenceIsRefused: try await lowerFenceIsRefused(fixture)
    case .renewalKeepsClaim: try await renewalKeepsClaim(fixture)
    case .attemptsCountOn: try await attemptsCountOn(fixture)
    case .outcomeIsKept: try await outcomeIsKept(fixture)
    case .otherOutcomeIsRefused: try await otherOutcomeIsRefused(fixture)
    case .skipNeedsInnocence: try await skipNeedsInnocence(fixture)
    case .compensationNeedsRollback: try await compensationNeedsRollback(fixture)
    case .statesFollowTheMap: try await statesFollowTheMap(fixture)
    case .reopenWaitsAnew: try await reopenWaitsAnew(fixture)
    case .historyIsMeasured: try await historyIsMeasured(fixture)
    case .listIsNewestFirst: try await listIsNewestFirst(fixture)
    case .auditIsChained: try await auditIsChained(fixture)
    case .storesHaveOneRun: try await storesHaveOneRun(fixture)
    case .readersKeepRunsOut: try await readersKeepRunsOut(fixture)
    case .runsKeepReadersOut: try await runsKeepReadersOut(fixture)
    case .storesGoToOne: try await storesGoToOne(fixture)
    case .appendNeedsNewestFence: try await appendNeedsNewestFence(fixture)
    }
  }
}

extension JournalPromise: CustomTestStringConvertible {
  package var testDescription: String { rawValue }
}
