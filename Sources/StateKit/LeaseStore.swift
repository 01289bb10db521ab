import Core

/// What is fought for: one per group of members.
package struct SeatName: Identifier {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// The right to act on a seat, until it lapses. Its fence is above that of every tenure before, for ever.
package struct Tenure: Sendable, Equatable, Codable {
  package var seat: SeatName
  package var holder: Holder
  package var fence: Fence
  /// What the store knows it by, if not the fence alone.
  package var token: String

  package init(seat: SeatName, holder: Holder, fence: Fence, token: String) {
    (self.seat, self.holder, self.fence, self.token) = (seat, holder, fence, token)
  }
}

/// A seat at one moment: who has it, and what is written on it.
package struct SeatView: Sendable, Equatable {
  package var tenure: Tenure?
  /// Written by who had the seat; see ``LeaseStore/write(_:under:)``.
  package var record: [UInt8]?
  /// Written by anybody; see ``LeaseStore/order(_:on:)``.
  package var order: [UInt8]?

  package init(tenure: Tenure? = nil, record: [UInt8]? = nil, order: [UInt8]? = nil) {
    (self.tenure, self.record, self.order) = (tenure, record, order)
  }
}

/// Who may act, with a token that only grows. Never the database that is failed over.
///
/// Every call is one step that all others see before or after, none in between; a view is never older than the call.
/// After ``LeaseError/unavailable(_:)`` a change may or may not have got through; repeating it is safe.
package protocol LeaseStore: Sendable {
  /// - Throws: ``LeaseError/taken(_:by:)`` while somebody's tenure lasts, the caller's own included.
  func take(_ seat: SeatName, as holder: Holder, for period: Duration) async throws(LeaseError) -> Tenure

  /// - Throws: ``LeaseError/lapsed(_:fence:)`` once it has lapsed, whether or not somebody else has the seat.
  func renew(_ tenure: Tenure) async throws(LeaseError)

  /// Fine if it has lapsed.
  func release(_ tenure: Tenure) async throws(LeaseError)

  func view(_ seat: SeatName) async throws(LeaseError) -> SeatView

  /// Writes the record, if the tenure lasts at that very moment.
  ///
  /// - Throws: ``LeaseError/lapsed(_:fence:)``.
  func write(_ record: [UInt8], under tenure: Tenure) async throws(LeaseError)

  /// Leaves an order for whoever acts on the seat; takes the place of the one before.
  func order(_ order: [UInt8], on seat: SeatName) async throws(LeaseError)
}

/// Why the lease store could not do what was asked.
package enum LeaseError: Failure, Equatable {
  case taken(SeatName, by: Holder)
  case lapsed(SeatName, fence: Fence)
  /// Whether the last change got through is not known.
  case unavailable(String)
  /// Its answer makes no sense.
  case corrupt(String)
  /// It must not be one, or isn't prepared to be.
  case unsuited(String)
  /// It is an older copy of itself: what it once acknowledged may be given out again.
  case forgetful(String)
  case cancelled

  package var report: Report {
    switch self {
    case .taken(let seat, let holder):
      Report("LEASE-101", "the lease on \(seat) is held by \(holder)", retry: .afterBackoff)
        .remedy("wait: it lapses when its holder is gone")
    case .lapsed(let seat, let fence):
      Report("LEASE-102", "the lease on \(seat) with fence \(fence) has lapsed", retry: .never)
        .state("nothing was changed").remedy("stop here; whoever takes the lease next goes on")
    case .unavailable(let what):
      Report("LEASE-201", "the lease store can't be used: \(what)", retry: .afterBackoff)
        .state("whether the last change got through is not known; repeating it is safe")
        .remedy("see whether it runs and can be reached; no failover begins without it")
    case .corrupt(let what):
      Report("LEASE-202", "the lease store's answer makes no sense: \(what)", retry: .never)
        .remedy("see whether something else writes below its prefix")
    case .unsuited(let what):
      Report("LEASE-203", "leases can't be kept there: \(what)")
        .remedy("see docs/operating/failover.md, \"Where leases are kept\"")
    case .forgetful(let what):
      Report("LEASE-204", "the lease store has lost what it knew: \(what)", retry: .never)
        .state("no failover begins until a person has looked")
        .remedy("see docs/operating/failover.md, \"When the lease store was restored\"")
    case .cancelled: Report("CORE-001", "cancelled", retry: .afterBackoff)
    }
  }
}
