import Core

/// A file of a catalog, already read; where it came from is the caller's business.
package struct SourceFile: Sendable, Equatable {
  /// As messages should show it.
  package var path: String
  package var text: String

  package init(path: String, text: String) { (self.path, self.text) = (path, text) }
}

/// Something a catalog's reader should know, with the place it is about.
package struct Diagnostic: Sendable, Equatable, Codable {
  package enum Severity: String, Sendable, Codable, CaseIterable {
    /// There is no catalog while this stands.
    case error
    case warning
    case note
  }

  /// `CATALOG-1xx`; stable across releases.
  package var code: String
  package var severity: Severity
  package var file: String
  /// From 1; 0 where a whole file is meant.
  package var line: Int
  /// From 1, in characters (Unicode scalars).
  package var column: Int
  /// One lowercase sentence without a full stop. Never repeats a secret.
  package var message: String
  /// What to do about it, as a sentence.
  package var remedy: String?

  package init(
    code: String, severity: Severity, file: String, line: Int, column: Int, message: String, remedy: String? = nil
  ) {
    (self.code, self.severity, self.file, self.line) = (code, severity, file, line)
    (self.column, self.message, self.remedy) = (column, message, remedy)
  }
}

extension Diagnostic: CustomStringConvertible {
  /// As compilers print it, so that editors find the place: `bank.yaml:12:5: error: … [CATALOG-104]`.
  package var description: String {
    let place = line > 0 ? "\(file):\(line):\(column)" : file
    let advice = remedy.map { "; \($0)" } ?? ""
    return "\(place): \(severity.rawValue): \(message)\(advice) [\(code)]"
  }
}

/// Why there is no catalog.
package enum CatalogError: Failure {
  /// At least one of them is an error.
  case invalid([Diagnostic])

  package var report: Report {
    switch self {
    case .invalid(let diagnostics):
      let errors = diagnostics.filter { $0.severity == .error }
      let first = errors.first.map { ", first: \($0)" } ?? ""
      return Report("CATALOG-100", "the catalog has \(errors.count) error\(errors.count == 1 ? "" : "s")\(first)")
        .state("nothing was read from it or done with it")
        .remedy("correct what `salvor validate` lists")
    }
  }
}
