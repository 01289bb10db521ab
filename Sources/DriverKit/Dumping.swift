import Core

/// Takes single databases and tables of a running server in the engine's own words, and brings them back into a running one.
///
/// Beside the copies of whole stores, never in their place: a dump is of one database, at a moment of its own.
package protocol StoreDumper: Sendable {
  /// Writes a dump into `directory`, all of it of one moment. Nobody waits but who changes the layout of a table.
  ///
  /// - Parameters:
  ///   - directory: Is not there yet; its parent is the caller's own, and is removed by the caller whatever happens.
  ///   - progress: Told how many bytes are there, now and then.
  /// - Throws: With nothing of the server's changed, and nothing of ours running there.
  func dump(
    _ request: DumpRequest, into directory: String, progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(DumpError) -> StoreDump

  /// What a restore would do. Reads only.
  ///
  /// - Parameter directory: Holds at least the dump's table of contents, ``StoreDump/contents``.
  func plan(_ request: DumpRestoreRequest, from directory: String) async throws(DumpError) -> DumpPlan

  /// Brings back what `plan` says. A database that is made for it has its name once it is whole, and one that was there
  /// is changed in one transaction or not at all.
  ///
  /// - Parameter directory: Holds every file that `plan` names.
  func restore(_ request: DumpRestoreRequest, _ plan: DumpPlan, from directory: String) async throws(DumpError)
}

package struct DumpRequest: Sendable, Equatable {
  package var database: String
  /// As a statement would spell them; everything if none is named.
  package var tables: [String]
  /// How many are read at the same time.
  package var jobs: Int

  package init(database: String, tables: [String] = [], jobs: Int = 2) {
    (self.database, self.tables, self.jobs) = (database, tables, jobs)
  }
}

/// What a dump holds; kept beside its files.
package struct StoreDump: Sendable, Equatable, Codable {
  package static let format = "salvor-dump-v1"

  package var format = StoreDump.format
  package var store: StoreName
  package var database: String
  /// `false` if it holds tables only that were named.
  package var isWhole: Bool
  /// The server's, such as `15.20`.
  package var version: String
  /// Of the program that wrote it.
  package var program: String
  /// What the dump holds was committed before it.
  package var position: LogPosition
  package var tables: [Table]
  /// Roles that own something in it, or have rights to it.
  package var roles: [String]
  package var extensions: [String]
  /// How a database like it is made.
  package var facts: [String: String]

  /// The file that lists what is where in it.
  package static let contents = "toc.dat"

  /// A table, or what can be named in its place: a view, a materialized view.
  package struct Table: Sendable, Hashable, Codable {
    package var schema: String
    package var name: String
    /// Both, as a statement spells them.
    package var sql: String
    package var id: String
    package var schemaID: String
    /// What goes with it in the dump's table of contents: itself, its indexes, constraints, triggers, its own sequences.
    package var members: [String]
    /// Constraints among the members that point to another table.
    package var links: [Link]
    /// The partitioned table it is a part of, as a statement spells it.
    package var parent: String?
    package var roles: [String]
    package var extensions: [String]

    package struct Link: Sendable, Hashable, Codable {
      package var member: String
      /// As a statement spells it.
      package var target: String
    }
  }

  package init(
    store: StoreName, database: String, isWhole: Bool, version: String, program: String, position: LogPosition,
    tables: [Table], roles: [String], extensions: [String], facts: [String: String]
  ) {
    (self.store, self.database, self.isWhole, self.version) = (store, database, isWhole, version)
    (self.program, self.position, self.tables) = (program, position, tables)
    (self.roles, self.extensions, self.facts) = (roles, extensions, facts)
  }
}

package struct DumpRestoreRequest: Sendable {
  package var dump: StoreDump
  /// As a statement would spell them; everything if none is named.
  package var tables: [String]
  /// The database; it is made if it is not there.
  package var into: String
  /// What is there already of what is brought back is dropped.
  package var replaces: Bool
  /// Everything belongs to who restores it, and nobody else has rights to it.
  package var dropsOwners: Bool
  /// How many are written at the same time, where that can be.
  package var jobs: Int

  package init(
    dump: StoreDump, tables: [String] = [], into: String, replaces: Bool = false, dropsOwners: Bool = false,
    jobs: Int = 2
  ) {
    (self.dump, self.tables, self.into) = (dump, tables, into)
    (self.replaces, self.dropsOwners, self.jobs) = (replaces, dropsOwners, jobs)
  }
}

package struct DumpPlan: Sendable, Equatable, Codable {
  package var database: String
  package var makesDatabase: Bool
  /// What comes back, as a statement spells it.
  package var tables: [String]
  /// Those of them that are there already, and are dropped.
  package var replaced: [String]
  /// What leans on them in the dump and stays behind: views, other tables' foreign keys.
  package var left: [String]
  /// Schemas that are made first, for the dump holds none.
  package var schemas: [String]
  /// Entries of the dump's table of contents; `nil` for all.
  package var entries: [Int]?
  /// Files that are read; `nil` for all.
  package var files: [String]?

  package init(
    database: String, makesDatabase: Bool, tables: [String], replaced: [String], left: [String] = [],
    schemas: [String] = [], entries: [Int]? = nil, files: [String]? = nil
  ) {
    (self.database, self.makesDatabase, self.tables, self.schemas) = (database, makesDatabase, tables, schemas)
    (self.replaced, self.left, self.entries, self.files) = (replaced, left, entries, files)
  }
}

/// Why a dump could not be taken or brought back.
package enum DumpError: Failure {
  case unsupported(store: StoreName, driver: String)
  case noSuchDatabase(String, known: [String])
  case noSuchTables([String], database: String)
  /// A program is missing, or older than what it must read.
  case program(String)
  case noRoom(neededBytes: Int64, freeBytes: Int64, at: String)
  case failed(program: String, log: String)
  case noDump(String)
  case ambiguous(String, [String])
  case notInDump([String])
  case exists([String], database: String)
  case missingRoles([String])
  case missingExtensions([String], database: String)
  case missingSchemas([String], database: String)
  case unreadable(String)
  case driver(DriverError)

  package init(_ error: any Error) {
    switch error {
    case let error as DumpError: self = error
    default: self = .driver(DriverError(error))
    }
  }

  package var report: Report {
    switch self {
    case .unsupported(let store, let driver):
      Report("DUMP-101", "store \(store) is of kind \(driver), which has no dumps", retry: .never)
        .remedy("take a recovery point of it: `salvor backup`")
    case .noSuchDatabase(let name, let known):
      Report("DUMP-102", "there is no database \(quoted(name))")
        .remedy("there are \(list(known.map(quoted)))")
    case .noSuchTables(let names, let database):
      Report("DUMP-103", "database \(quoted(database)) has no table \(list(names))")
        .remedy("name it as a statement would: schema.table, with double quotes around what is not all small letters")
    case .program(let why): Report("DUMP-104", why).remedy("install it, or set the store's binDirectory")
    case .noRoom(let needed, let free, let place):
      Report("DUMP-105", "\(needed) bytes may be needed at \(place), where \(free) are free")
        .state("nothing was written").remedy("name a larger place with --work")
    case .failed(let program, let log):
      Report("DUMP-106", "\(program) failed: \(log)").remedy("what it said tells what to mend; then run it again")
    case .noDump(let what):
      Report("DUMP-201", "there is no dump \(what)").remedy("`salvor dump list` shows what there is")
    case .ambiguous(let text, let ids):
      Report("DUMP-202", "'\(text)' begins several dumps: \(list(ids))").remedy("give more of the id")
    case .notInDump(let names):
      Report("DUMP-203", "the dump does not hold \(list(names))")
        .remedy("`salvor dump list --id ID` shows what it holds; another may")
    case .exists(let names, let database):
      Report("DUMP-204", "database \(quoted(database)) has \(list(names)) already").state("nothing was changed")
        .remedy("bring it back beside, with --into another database; or drop what is there, with --replace")
    case .missingRoles(let names):
      Report("DUMP-205", "the server has no role \(list(names.map(quoted)))").state("nothing was changed")
        .remedy("create it, or leave owners and rights behind, with --no-owner")
    case .missingExtensions(let names, let database):
      Report("DUMP-206", "database \(quoted(database)) can't have the extension \(list(names.map(quoted)))")
        .state("nothing was changed").remedy("install its package, and CREATE EXTENSION where the database is there")
    case .missingSchemas(let names, let database):
      Report("DUMP-208", "database \(quoted(database)) has no schema \(list(names.map(quoted)))")
        .state("nothing was changed").remedy("CREATE SCHEMA there; a dump of tables alone holds none")
    case .unreadable(let why):
      Report("DUMP-207", "the dump can't be read: \(why)", retry: .never)
        .remedy("choose another; `salvor vault check` looks for damage")
    case .driver(let error): error.report
    }
  }

  private func quoted(_ name: String) -> String { "'\(name)'" }

  private func list(_ names: [String]) -> String {
    names.prefix(12).joined(separator: ", ") + (names.count > 12 ? " and \(names.count - 12) more" : "")
  }
}
