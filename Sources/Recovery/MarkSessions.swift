import Catalog
import Core
import DriverKit

/// Connections to stores whose logs are followed, for points that only mark them: they stay open from one point to the
/// next. After any failure they are all opened again.
package actor MarkSessions {
  private let members: [StoreName: PointTaker.Member]
  private var ready: [StoreName: Cut.Member] = [:]
  /// Those that may be open, whatever became of them.
  private var opened: [any MarkSession] = []

  package init(_ members: [StoreName: PointTaker.Member]) { self.members = members }

  /// Those there are, or new ones.
  ///
  /// - Throws: ``RecoveryError``; nothing is open then.
  package func open() async throws(RecoveryError) -> [StoreName: Cut.Member] {
    if ready.isEmpty {
      do throws(RecoveryError) { ready = try await prepare() } catch {
        await close()
        throw error
      }
    }
    return ready
  }

  private func prepare() async throws(RecoveryError) -> [StoreName: Cut.Member] {
    var pending: [StoreName: (driver: any DataStoreDriver, session: any MarkSession)] = [:]
    for (name, member) in members {
      guard let session = member.driver.marking() else { throw .logNotFollowed(name) }
      pending[name] = (member.driver, session)
      opened.append(session)
    }
    let results = await withTaskGroup(of: (StoreName, Result<Cut.Member, DriverError>).self) { group in
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
    var ready: [StoreName: Cut.Member] = [:]
    var failures: [StoreName: Report] = [:]
    for (name, result) in results {
      do throws(DriverError) { ready[name] = try result.get() } catch { failures[name] = error.report }
    }
    guard failures.isEmpty else { throw .captureFailed(failures) }
    return ready
  }

  package func close() async {
    ready = [:]
    for session in opened { await session.close() }
    opened = []
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
