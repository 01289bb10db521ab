import Core

/// What a release does to stores, and what it needs of them: read from its `release.yaml`, beside the code.
package struct Release: Sendable, Equatable, Codable {
  package var name: String
  package var stores: [Part]
  /// Of the catalog's invariants, those that must hold afterwards; `nil` is all that can be asked.
  package var invariants: [CheckName]?

  /// One store's share of a release.
  package struct Part: Sendable, Equatable, Codable {
    package var store: StoreName
    package var change: Change?
    /// A directory, relative to the release's, whose scripts undo those of ``Change/scripts(directory:applied:record:)`` of the same name.
    package var down: String?
    /// Gives one row with one value: the schema's version.
    package var version: String?
    /// Versions the release can start from; empty is any.
    package var accepts: [String]
    /// The version it must lead to.
    package var leadsTo: String?
    /// What must work afterwards.
    package var checks: [Check]
  }

  package enum Change: Sendable, Equatable, Codable {
    /// `*.sql` of a directory relative to the release's, in the order of their names.
    ///
    /// - Parameters:
    ///   - applied: A query that gives the names of those that are applied already.
    ///   - record: A statement that notes one more; `{{migration}}` is its name, quoted.
    case scripts(directory: String, applied: String?, record: String?)
    /// A command that finds the private server in its environment.
    case command(Command)
  }

  package struct Check: Sendable, Equatable, Codable {
    package var name: CheckName
    package var query: String
    package var expectation: Validator.Expectation?
  }

  package func part(of store: StoreName) -> Part? { stores.first { $0.store == store } }
}
