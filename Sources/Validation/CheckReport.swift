import Catalog
import Core

/// What became of one check: evidence, and what a person reads.
package struct CheckReport: Sendable, Equatable, Codable {
  package enum Kind: String, Sendable, Codable {
    /// A check of one service.
    case validator
    /// A rule in or across stores.
    case invariant
    /// What was captured against what was restored.
    case digest
    /// A number of the business against its bounds and what it was.
    case metric
    /// A schema's version against those a service works with.
    case schema
  }

  package var kind: Kind
  /// Within its subject; with it, unique.
  package var name: String
  /// The service a validator belongs to; the stores an invariant or a digest is about, joined by commas.
  package var subject: String
  package var severity: Invariant.Severity
  package var outcome: CheckResult
  /// Rows, keys or files that were looked at; 0 where there is nothing to count.
  package var examined: Int64
  /// When it began.
  package var at: Timestamp
  package var durationNanoseconds: Int64
  /// Of a metric, what it is.
  package var value: String?

  package init(
    kind: Kind, name: String, subject: String, severity: Invariant.Severity = .error, outcome: CheckResult,
    examined: Int64 = 0, at: Timestamp, durationNanoseconds: Int64 = 0
  ) {
    (self.kind, self.name, self.subject, self.severity) = (kind, name, subject, severity)
    (self.outcome, self.examined, self.at) = (outcome, examined, at)
    self.durationNanoseconds = durationNanoseconds
  }

  package var verdict: Verdict {
    switch outcome {
    case .passed: .passed
    case .failed: severity == .warning ? .warned : .failed
    case .couldNotCheck: .couldNotCheck
    }
  }

  /// One line: what held, what didn't, or why nobody knows.
  package var summary: String {
    switch outcome {
    case .passed(let text): text
    case .failed(let violations): violations.map(\.summary).joined(separator: "; ")
    case .couldNotCheck(let report): "could not check: \(report.summary)"
    }
  }

  /// The same, for those who read JSON: counts, and examples of every kind of violation.
  package var detail: JSONValue {
    var members: [String: JSONValue] = [
      "kind": .string(kind.rawValue), "subject": .string(subject), "examined": .integer(examined),
      "at": .string(at.description), "durationNanoseconds": .integer(durationNanoseconds),
    ]
    if let value { members["value"] = .string(value) }
    switch outcome {
    case .passed: break
    case .failed(let violations):
      members["violations"] = .array(
        violations.map { violation in
          [
            "kind": .string(violation.kind.rawValue), "count": .integer(violation.count),
            "explanation": .string(violation.explanation), "examples": .array(violation.examples.map { .string($0) }),
          ]
        })
    case .couldNotCheck(let report):
      members["reason"] = ["code": .string(report.code), "summary": .string(report.summary)]
    }
    return .object(members)
  }
}

/// The four things a check can come to; only one of them is good.
package enum Verdict: String, Sendable, Codable {
  case passed
  case failed
  /// It failed, and its author said that this is only to be reported.
  case warned
  /// Never counts as passed.
  case couldNotCheck = "could-not-check"
}

package enum CheckResult: Sendable, Equatable, Codable {
  /// What held, in one line.
  case passed(String)
  /// Never empty.
  case failed([Violation])
  /// A store that did not answer, a query that failed, an answer that was cut short.
  case couldNotCheck(Report)
}

/// One way in which a check failed, however often.
package struct Violation: Sendable, Equatable, Codable {
  package enum Kind: String, Sendable, Codable {
    /// A row refers to one that is not there.
    case brokenLink = "broken-link"
    /// A row that nothing refers to, where something has to.
    case orphan
    /// A row on one side only.
    case missing
    /// A value, a count, a status, a text other than expected.
    case unexpected
    /// A table, keyspace or directory whose content is not what was captured.
    case changed
  }

  package var kind: Kind
  /// How often, exactly.
  package var count: Int64
  /// One lowercase phrase, without the count: `rows of ledger-data are not in accounts-data`.
  package var explanation: String
  /// The first few in sorted order, each cut to 200 characters.
  package var examples: [String]

  package init(_ kind: Kind, count: Int64, _ explanation: String, examples: [String] = []) {
    (self.kind, self.count, self.explanation) = (kind, count, explanation)
    self.examples = examples.map { $0.count > 200 ? $0.prefix(199) + "…" : $0 }
  }

  /// With the count and an example or three.
  package var summary: String {
    var text = kind == .unexpected ? explanation : "\(count) \(explanation)"
    if !examples.isEmpty {
      text += ", such as \(examples.prefix(3).joined(separator: " · "))"
    }
    return text
  }
}

extension [CheckReport] {
  /// Whether nothing stands in the way: all passed, or failed as a mere warning. Of nothing at all, `true`; who asks
  /// must know that there was something to check.
  package var arePassed: Bool { allSatisfy { $0.verdict == .passed || $0.verdict == .warned } }
}

/// Why a check could not be carried out where no driver or port says so itself.
package enum CheckError: Failure {
  case truncated(StoreName, rows: Int)
  case columns(left: Int, right: Int)
  case notAnswerable(String)
  case noDigest(String)
  case unlikeDigests(captured: String, restored: String)

  package var report: Report {
    switch self {
    case .truncated(let store, let rows):
      Report("CHECK-101", "the answer of \(store) has more than \(rows) rows and was cut short", retry: .afterChange)
        .remedy("let the query group or select, so that it answers with less")
    case .columns(let left, let right):
      Report("CHECK-102", "rows of \(left) columns can't be compared with rows of \(right)", retry: .afterChange)
        .remedy("let both queries give the same columns in the same order")
    case .notAnswerable(let what):
      Report("CHECK-103", what, retry: .afterChange).remedy("correct the check in the catalog")
    case .noDigest(let who):
      Report("CHECK-104", "\(who) has no digest of its content, so nothing was compared", retry: .never)
    case .unlikeDigests(let captured, let restored):
      Report(
        "CHECK-105", "digests of unlike kinds can't be compared: \(captured) captured, \(restored) restored",
        retry: .never
      )
      .remedy("compare with the version of Salvor that took the backup")
    }
  }
}
