import Core
import DriverKit

/// Holds, marks and releases a group of stores.
///
/// The order is what makes the cut consistent: every store is held before any is marked, and every store is marked before
/// any is released. So what was acknowledged anywhere before the moment of the cut is in it, and nothing in it can
/// have been caused by something outside it: a cause had to be acknowledged first, and by then its store was held.
///
/// One store that can't be held, but is copied as it was at one moment between its mark's call and return, is as good: what it
/// has been given by then was caused by what the others have, and nothing they have came after. Two of them would each have a
/// moment of their own, and what goes from one to the other in between is nobody's.
package struct Cut: Sendable {
  /// What became of one attempt to cut.
  package struct Outcome: Sendable {
    package var time: Timestamp
    package var mode: RecoveryPoint.Mode
    package var remarks: [String]
    package var pause: Duration
    package var marks: [StoreName: LogPosition]
    package var cuts: [StoreName: StorePoint.Cut]
    package var timings: [StoreName: StorePoint.Timings]
  }

  /// One store of the group, prepared.
  package struct Member: Sendable {
    package var session: any MarkSession
    package var support: HoldSupport

    package init(session: any MarkSession, support: HoldSupport) {
      (self.session, self.support) = (session, support)
    }
  }

  package enum HoldPolicy: Sendable {
    case hold(budget: Duration)
    /// Marks one store after another, without holding any: a fuzzy point.
    ///
    /// - Parameter apart: How long to wait between one mark and the next. Zero, but in a negative control: marks taken in
    ///   the same instant can be a cut by luck, and a control that passes by luck controls nothing.
    case none(apart: Duration)

    package static var none: Self { .none(apart: .zero) }
  }

  let members: [StoreName: Member]
  private let policy: HoldPolicy
  let time: any Timekeeper

  package init(_ members: [StoreName: Member], policy: HoldPolicy, time: any Timekeeper) {
    (self.members, self.policy, self.time) = (members, policy, time)
  }

  /// Takes the cut.
  ///
  /// Writers wait for at most the budget, whatever happens: a failure, an overrun and a cancellation all release first.
  ///
  /// - Throws: ``RecoveryError/notHeld(_:)`` if a store couldn't be held in time; nobody waits any more then.
  package func take() async throws(RecoveryError) -> Outcome {
    switch policy {
    case .none(let apart): try await takeFuzzy(apart: apart)
    case .hold(let budget): try await takeBarrier(budget: budget)
    }
  }

  private func takeBarrier(budget: Duration) async throws(RecoveryError) -> Outcome {
    var timings: [StoreName: StorePoint.Timings] = [:]
    let start = time.monotonicNanoseconds()
    let held = members.filter { if case .held = $0.value.support { true } else { false } }

    let holds = await each(held) { (member) async throws(DriverError) in try await member.session.hold(limit: budget) }
    for (name, result) in holds { timings[name, default: .init()].hold = result.nanoseconds }
    var failures = holds.compactMapValues(\.failure)
    let overrun = Duration.nanoseconds(time.monotonicNanoseconds() - start)
    if failures.isEmpty, overrun > budget {
      failures = Dictionary(uniqueKeysWithValues: held.keys.map { ($0, DriverError.holdTimeout(budget)) })
    }
    guard failures.isEmpty, !Task.isCancelled else {
      _ = await release(held)
      if failures.isEmpty { throw .cancelled }
      throw .notHeld(failures.mapValues(\.report), pause: .nanoseconds(time.monotonicNanoseconds() - start))
    }

    let moment = time.now()
    let marks = await each(members) { (member) async throws(DriverError) in try await member.session.mark() }
    for (name, result) in marks { timings[name, default: .init()].mark = result.nanoseconds }
    let released = await release(held)
    let pause = Duration.nanoseconds(time.monotonicNanoseconds() - start)
    for (name, result) in released { timings[name, default: .init()].release = result.nanoseconds }

    let unmarked = marks.compactMapValues(\.failure)
    guard unmarked.isEmpty else { throw .notMarked(unmarked.mapValues(\.report)) }

    var cuts: [StoreName: StorePoint.Cut] = [:]
    var remarks: [String] = []
    let moments = members.filter { if case .moment = $0.value.support { true } else { false } }.keys.sorted()
    for (name, member) in members.sorted(by: { $0.key < $1.key }) {
      switch member.support {
      case .moment where moments.count == 1 && !held.isEmpty:
        cuts[name] = .moment
      case .moment(let how):
        let others = moments.filter { $0 != name }.map(\.text).joined(separator: ", ")
        let why = "nobody is held (\(how))" + (others.isEmpty ? "" : ", and neither is \(others)")
        cuts[name] = .outside(why: why)
        remarks.append("\(name) is outside the cut: \(why)")
      case .outside(let why):
        cuts[name] = .outside(why: why)
        remarks.append("\(name) is outside the cut: \(why)")
      case .held where released[name]?.value == true:
        cuts[name] = .held
      case .held:
        let why = "its hold lapsed before it was released; it may have moved after the mark"
        cuts[name] = .outside(why: why)
        remarks.append("\(name) is outside the cut: \(why)")
      }
    }
    let lapsed = held.keys.contains { released[$0]?.value != true }
    return Outcome(
      time: moment, mode: lapsed || held.isEmpty ? .fuzzy : .barrier, remarks: remarks,
      pause: held.isEmpty ? .zero : pause, marks: marks.compactMapValues(\.value), cuts: cuts, timings: timings)
  }

  private func takeFuzzy(apart: Duration) async throws(RecoveryError) -> Outcome {
    let moment = time.now()
    // One after another, on purpose: nothing here pretends to be a cut.
    var marks: [StoreName: LogPosition] = [:]
    var failures: [StoreName: Report] = [:]
    for (name, member) in members.sorted(by: { $0.key < $1.key }) {
      if apart > .zero, !marks.isEmpty {
        do { try await time.sleep(for: apart) } catch { throw .cancelled }
      }
      do { marks[name] = try await member.session.mark() } catch { failures[name] = error.report }
    }
    guard failures.isEmpty else { throw .notMarked(failures) }
    let why = "taken without holding writers"
    return Outcome(
      time: moment, mode: .fuzzy, remarks: ["\(why): nothing is promised between stores"], pause: .zero, marks: marks,
      cuts: members.mapValues { _ in .outside(why: why) }, timings: [:])
  }

  private func release(_ members: [StoreName: Member]) async -> [StoreName: Timed<Bool>] {
    // Not cancellable by construction: `release` never throws and waits for nothing but its own store.
    await each(members) { member in await member.session.release() }
  }

  /// Runs one call on every member side by side, and times each.
  private func each<T: Sendable>(
    _ members: [StoreName: Member], _ call: @escaping @Sendable (Member) async throws(DriverError) -> T
  ) async -> [StoreName: Timed<T>] {
    await withTaskGroup(of: (StoreName, Timed<T>).self) { group in
      for (name, member) in members {
        group.addTask {
          let start = time.monotonicNanoseconds()
          do throws(DriverError) {
            let value = try await call(member)
            return (name, Timed(result: .success(value), nanoseconds: time.monotonicNanoseconds() - start))
          } catch {
            return (name, Timed(result: .failure(error), nanoseconds: time.monotonicNanoseconds() - start))
          }
        }
      }
      return await group.reduce(into: [:]) { $0[$1.0] = $1.1 }
    }
  }
}

/// A result and how long it took.
struct Timed<Value: Sendable>: Sendable {
  var result: Result<Value, DriverError>
  var nanoseconds: Int64

  var value: Value? { try? result.get() }

  var failure: DriverError? {
    if case .failure(let error) = result { error } else { nil }
  }
}
