import Catalog
import Core
import DriverKit
import IO
import Vault

/// Takes recovery points of stores whose logs are followed, as often as wanted: holds, marks, releases, and writes down the
/// marks. Nothing is copied.
///
/// Connections stay open between one point and the next. After any failure they are all opened again.
package actor Barrier {
  package struct Request: Sendable {
    package var group: GroupName
    package var members: [StoreName: PointTaker.Member]
    package var policy: Cut.HoldPolicy
    package var onOverBudget: ConsistencyGroup.OverBudget

    package init(
      group: GroupName, members: [StoreName: PointTaker.Member], policy: Cut.HoldPolicy,
      onOverBudget: ConsistencyGroup.OverBudget
    ) {
      (self.group, self.members, self.policy, self.onOverBudget) = (group, members, policy, onOverBudget)
    }
  }

  private let request: Request
  private let time: any Timekeeper
  private var sessions: [StoreName: Cut.Member] = [:]
  /// Those that may be open, whatever became of them.
  private var opened: [any MarkSession] = []

  package init(_ request: Request, time: any Timekeeper) { (self.request, self.time) = (request, time) }

  /// - Throws: ``RecoveryError``; nobody waits then.
  package func take() async throws(RecoveryError) -> Cut.Outcome {
    do throws(RecoveryError) {
      if sessions.isEmpty { try await open() }
      let outcome = try await Cut(sessions, policy: request.policy, time: time).take(
        onOverBudget: request.onOverBudget)
      // One that lapsed, or was refused, may have lost its connection.
      if outcome.mode == .fuzzy { await close() }
      return outcome
    } catch {
      await close()
      throw error
    }
  }

  private func open() async throws(RecoveryError) {
    var pending: [StoreName: (driver: any DataStoreDriver, session: any MarkSession)] = [:]
    for (name, member) in request.members {
      guard let session = member.driver.marking() else { throw .logNotFollowed(name) }
      pending[name] = (member.driver, session)
      opened.append(session)
    }
    let ready = await withTaskGroup(of: (StoreName, Result<Cut.Member, DriverError>).self) { group in
      for (name, one) in pending {
        group.addTask {
          do throws(DriverError) {
            let traits = try await one.driver.traits()
            try await one.session.prepare()
            return (name, .success(Cut.Member(session: one.session, support: traits.hold)))
          } catch { return (name, .failure(error)) }
        }
      }
      return await group.reduce(into: [StoreName: Result<Cut.Member, DriverError>]()) { $0[$1.0] = $1.1 }
    }
    if Task.isCancelled { throw .cancelled }
    var failures: [StoreName: Report] = [:]
    for (name, result) in ready {
      do throws(DriverError) { sessions[name] = try result.get() } catch { failures[name] = error.report }
    }
    guard failures.isEmpty else { throw .captureFailed(failures) }
  }

  package func close() async {
    sessions = [:]
    for session in opened { await session.close() }
    opened = []
  }

  /// What is written down of a cut.
  package nonisolated func point(
    of outcome: Cut.Outcome, name: String?, catalog: Digest, host: String
  ) -> RecoveryPoint {
    var logged: [StoreName: LoggedPoint] = [:]
    for (store, position) in outcome.marks {
      guard let member = request.members[store], let cut = outcome.cuts[store] else { continue }
      logged[store] = LoggedPoint(
        driver: member.kind, cut: cut, position: position, timings: outcome.timings[store] ?? .init())
    }
    return RecoveryPoint(
      id: PointID(time: outcome.time, group: request.group, catalog: catalog, marks: outcome.marks),
      group: request.group, time: outcome.time, mode: outcome.mode, remarks: outcome.remarks,
      pauseNanoseconds: outcome.pause.wholeNanoseconds,
      holdBudgetNanoseconds: request.policy.budget.wholeNanoseconds, catalogDigest: catalog, host: host, stores: [:],
      logged: logged, name: name)
  }
}

/// Which of many barriers stay. Pure: by their times.
package enum BarrierThinning {
  /// Everything younger than `all`, then the last of each minute for a day, then the last of each hour.
  package static func going<ID: Hashable>(_ barriers: [(id: ID, time: Timestamp)], now: Timestamp, all: Duration)
    -> Set<ID>
  {
    var going: Set<ID> = []
    var seen: Set<Int64> = []
    for barrier in barriers.sorted(by: { $0.time > $1.time }) {
      let second = barrier.time.nanoseconds / 1_000_000_000
      // Whole minutes and whole hours of the clock that are old enough, so that the same stay however often is looked.
      func end(_ seconds: Int64) -> Timestamp { Timestamp(seconds: (second / seconds + 1) * seconds) }
      let slot: Int64
      if now - end(3600) >= .seconds(86_400) {
        slot = second / 3600 &* 2
      } else if now - end(60) >= all {
        slot = second / 60 &* 2 &+ 1
      } else {
        continue
      }
      if !seen.insert(slot).inserted { going.insert(barrier.id) }
    }
    return going
  }
}
