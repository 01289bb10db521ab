import Core

/// What keeps an object from being deleted or changed.
///
/// Source: Amazon S3, "Locking objects with Object Lock".
package struct ObjectLock: Hashable, Sendable {
  package enum Mode: String, Sendable, CaseIterable, Codable {
    /// Whoever has a right of its own may end it early.
    case governance
    /// Nobody can end it early.
    case compliance
  }

  package var mode: Mode?
  package var until: Timestamp?
  /// Legal hold: keeps the object until it is taken off, whatever `until` says.
  package var isHeld: Bool

  package init(mode: Mode? = nil, until: Timestamp? = nil, isHeld: Bool = false) {
    (self.mode, self.until, self.isHeld) = (mode, until, isHeld)
  }

  package func holds(at now: Timestamp) -> Bool { isHeld || until.map { now < $0 } ?? false }

  /// For people.
  package var reason: String {
    isHeld ? "under legal hold" : until.map { "until \($0.format(fractionDigits: 0))" } ?? "not locked"
  }
}

/// How a lock is to change.
package enum ObjectLockChange: Hashable, Sendable {
  /// A lock that lasts longer already stays as it is.
  case extend(until: Timestamp)
  case hold
  case release
}
