/// An error an operator can act on.
///
/// Every error that crosses a port conforms, as a closed list of cases per module; what a person reads is made
/// in one place, ``report``.
package protocol Failure: Error, Sendable, CustomStringConvertible {
  /// What happened, what state things are in, and what to do next.
  var report: Report { get }
}

extension Failure {
  package var description: String { report.description }
}

/// What an operator needs to know about a failure; also the unit of documentation (`docs/operating/errors.md`).
package struct Report: Sendable, Equatable, Codable, CustomStringConvertible {
  /// When, if ever, trying again makes sense.
  package enum Retry: String, Sendable, Codable {
    /// The same call may succeed after a pause: a lock, a timeout, a server that is starting.
    case afterBackoff
    /// Something must change first: a credential, space, the catalog.
    case afterChange
    /// Trying again cannot help.
    case never
  }

  /// Area and number, such as `VAULT-102`; stable across releases.
  package var code: String
  /// One lowercase sentence without a full stop.
  package var summary: String
  package var retry: Retry
  /// What was and wasn't changed, where that is not obvious.
  package var state: String?
  /// What to do next, as a sentence.
  package var remedy: String?
  /// The findings one by one, for the record and for programs; the summary says the same for people.
  package var details: JSONValue?

  package init(_ code: String, _ summary: String, retry: Retry = .afterChange) {
    (self.code, self.summary, self.retry) = (code, summary, retry)
  }

  package func remedy(_ text: String) -> Report {
    var copy = self
    copy.remedy = text
    return copy
  }

  package func state(_ text: String) -> Report {
    var copy = self
    copy.state = text
    return copy
  }

  package func details(_ value: JSONValue?) -> Report {
    var copy = self
    copy.details = value
    return copy
  }

  /// The same report, its summary beginning with `prefix`.
  package func prefixed(_ prefix: String) -> Report {
    var copy = self
    copy.summary = prefix + summary
    return copy
  }

  package var description: String {
    var text = "\(code): \(summary)"
    if let state { text += "; \(state)" }
    if let remedy { text += " (\(remedy))" }
    return text
  }
}

/// A failure of another module, passed through a port that cannot name its type.
package struct AnyFailure: Failure {
  package let report: Report
  /// The original, for callers that know what to look for.
  package let underlying: any Error

  package init(_ error: any Error) {
    if let already = error as? AnyFailure {
      self = already
    } else if let failure = error as? any Failure {
      (report, underlying) = (failure.report, failure)
    } else if error is CancellationError {
      report = Report("CORE-001", "cancelled", retry: .afterBackoff)
      underlying = error
    } else {
      report = Report("CORE-002", "unexpected error: \(error)", retry: .never)
      underlying = error
    }
  }

  package var isCancellation: Bool { underlying is CancellationError }
}
