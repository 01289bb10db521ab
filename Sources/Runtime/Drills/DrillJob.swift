import Catalog
import Core
import Drills
import StateKit
import Synchronization

/// What a drill's own process is told: all it knows of the world outside.
struct DrillJob: Sendable, Codable {
  var id: String
  var drill: Drill
  var room: DrillRoom
  /// Empty in a drill of a lost region: the catalog comes from the mirror.
  var catalogFiles: [String: String]
  /// `nil`: the newest of every group.
  var point: String?
  /// Where the drill's passwords lie; copies, which go with it.
  var passwords: [RepositoryName: String]
  /// Mirrors that take the place of what they mirror.
  var locations: [RepositoryName: DeclaredRepository.Location]
  /// What it took to bring copies here that are only reached over a network; part of every time to be back.
  var fetchedSeconds: Double = 0
  var fault: Drill.Fault?
  var target: StoreName?
  var seed: UInt64
  /// What its clock differs by from the machine's; the clock of whoever asked for the drill may be another.
  var clockNanoseconds: Int64
  var host: String
  var variables: [String: String]
}

/// What a drill's own process found.
struct DrillResult: Sendable, Codable {
  var isComplete = false
  var findings: [DrillFinding] = []
  var attempts: [DrillRecord.Attempt] = []
  var times = DrillRecord.Times()
  var results: [DrillRecord.ServiceResult] = []
  /// By the plan's steps: those that were carried out.
  var measurements: [String: StateKit.Measurement] = [:]
  var checks = 0
  var compared = 0
  var notCompared: [StoreName] = []
  var workflows: [String]?
  /// What was broken, in so many words; `nil` if there was nothing to break.
  var planted: String?
}

/// A machine's clock that is off by so much, and on which waiting can be counted without being waited for.
final class ShiftedTime: Timekeeper {
  private let base: any Timekeeper
  private let shift: Int64

  init(_ base: any Timekeeper = SystemTime(), nanoseconds: Int64) { (self.base, shift) = (base, nanoseconds) }

  func now() -> Timestamp { base.now() + .nanoseconds(shift) }
  func monotonicNanoseconds() -> Int64 { base.monotonicNanoseconds() }
  func sleep(for duration: Duration) async throws { try await base.sleep(for: duration) }
}

/// Waiting that a slow store costs: counted, not waited for.
final class CountedWaiting: Sendable {
  private let nanoseconds = Mutex<Int64>(0)

  func add(_ duration: Duration) { nanoseconds.withLock { $0 += duration.wholeNanoseconds } }
  var seconds: Double { Duration.nanoseconds(nanoseconds.withLock { $0 }).seconds }
}
