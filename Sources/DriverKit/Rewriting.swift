import Core

/// One value of a row, as the engine has it. Engines that print everything as text give ``text(_:)``.
package enum RowValue: Sendable, Hashable {
  case null
  case integer(Int64)
  case real(Double)
  case text(String)
  case bytes([UInt8])
}

/// A table as its engine's catalog describes it.
package struct TableShape: Sendable, Codable, Equatable {
  package struct Column: Sendable, Codable, Equatable {
    package var name: String
    /// As the engine writes it, such as `character varying(40)`.
    package var type: String
    package var isNullable: Bool
    /// Computed from other columns: it has no value of its own, and is never written.
    package var isGenerated: Bool

    package init(_ name: String, _ type: String, isNullable: Bool = true, isGenerated: Bool = false) {
      (self.name, self.type, self.isNullable, self.isGenerated) = (name, type, isNullable, isGenerated)
    }
  }

  /// Columns whose values are those of another table's.
  package struct Reference: Sendable, Codable, Equatable {
    package var columns: [String]
    package var table: String
    package var targets: [String]

    package init(_ columns: [String], to table: String, _ targets: [String]) {
      (self.columns, self.table, self.targets) = (columns, table, targets)
    }
  }

  /// As a policy names it: `customers`, or `public.customers`, with the database before it where there are several.
  package var name: String
  package var columns: [Column]
  /// Sets of columns that are unique, the primary key first.
  package var keys: [[String]]
  package var references: [Reference]

  package init(_ name: String, _ columns: [Column], keys: [[String]] = [], references: [Reference] = []) {
    (self.name, self.columns, self.keys, self.references) = (name, columns, keys, references)
  }

  package func index(of column: String) -> Int? { columns.firstIndex { $0.name == column } }
}

/// All that a store holds, by name: what a policy has to speak of.
package struct StoreShape: Sendable, Codable, Equatable {
  /// Text inside a schema: a literal of a default, a check, a view, a comment.
  package struct Literal: Sendable, Codable, Equatable, Hashable {
    package var place: String
    package var text: String

    package init(place: String, text: String) { (self.place, self.text) = (place, text) }
  }

  package var tables: [TableShape] = []
  /// Keys or paths; `nil` for stores of tables.
  package var entries: [String]?
  package var literals: [Literal] = []
  /// What is neither a row nor an entry, such as `sequence public.orders_seq` or `link latest`.
  package var others: [String] = []

  package init() {}
}

/// The content of a key or a file.
package enum EntryContent: Sendable, Equatable {
  case bytes([UInt8])
  /// Of a hash.
  case fields([Field])
  /// Of a list, in order.
  case members([[UInt8]])
  case set([[UInt8]])
  /// Of a sorted set, with the score as the engine prints it.
  case scored([Field])
  /// Of a stream: ids and their fields.
  case stream([Message])

  package struct Field: Sendable, Equatable {
    package var name: [UInt8]
    package var value: [UInt8]
    package init(_ name: [UInt8], _ value: [UInt8]) { (self.name, self.value) = (name, value) }
  }

  package struct Message: Sendable, Equatable {
    package var id: String
    package var fields: [Field]
    package init(id: String, _ fields: [Field]) { (self.id, self.fields) = (id, fields) }
  }
}

/// What becomes of an entry.
package enum EntryPlan: Sendable, Equatable {
  case drop
  /// Byte by byte, under this name.
  case keep(as: [UInt8])
  /// Its content is asked for.
  case rewrite(as: [UInt8])
}

/// Turns what a store holds into what its copy holds; called by adapters, for every row and entry there is.
///
/// It throws for whatever it was not told about: an adapter never carries anything over by itself.
package protocol ContentRewriting: Sendable {
  /// Whether the table is carried at all, with no row or with some.
  func carriesRows(of table: String) throws(AnyFailure) -> Bool
  /// - Parameter values: One for each column that is not generated, in the table's order.
  /// - Returns: As many.
  func row(_ values: [RowValue], of table: TableShape) throws(AnyFailure) -> [RowValue]
  func plan(_ entry: [UInt8]) throws(AnyFailure) -> EntryPlan
  func content(_ content: EntryContent, of entry: [UInt8]) throws(AnyFailure) -> EntryContent
  /// Whether one of ``StoreShape/others`` comes along; else it is left out.
  func carries(_ other: String) throws(AnyFailure) -> Bool
  var carriesComments: Bool { get }
}

/// A piece of what a store holds.
package enum ContentPiece: Sendable {
  case row([RowValue], of: TableShape)
  /// Content is `nil` for what has none that can be read into memory.
  case entry([UInt8], EntryContent?)
  case schema(String)
}

/// What went into a copy.
package struct RewriteCount: Sendable, Codable, Equatable {
  package var rows: [String: Int] = [:]
  package var entries = 0
  package var dropped = 0
  /// What the engine checked once everything was there.
  package var proofs: [String] = []
  /// Whom the new state knows as the one who may do everything, where there is such a one.
  package var role: String?

  package init() {}
}

/// Makes a store anew from one that nobody else can reach, with every row and entry passed through someone's hands.
///
/// It works on the state at the driver's own path, which is stopped and belongs to whoever calls: a restored copy. Nothing but
/// what is handed back gets into the new store: no page, no log, no index, no statistics of the old one.
package protocol StoreRewriter: Sendable {
  /// Why a capture must not be brought back for this at all; `nil` if it may.
  func refusal(of capture: CaptureResult) -> String?
  func shape() async throws(AnyFailure) -> StoreShape
  /// Streams what is there.
  ///
  /// - Parameter limit: Rows of each table, and entries.
  func read(limit: Int, _ each: @escaping @Sendable (ContentPiece) throws(AnyFailure) -> Void) async throws(AnyFailure)
  /// - Parameter place: Where the new state goes, as the driver's own path would name it. Nothing is there; its parent is.
  func rewrite(to place: String, by rewriting: any ContentRewriting) async throws(AnyFailure) -> RewriteCount
}

extension StoreRewriter {
  package func refusal(of capture: CaptureResult) -> String? { nil }
}

/// Runs what may throw anything, and passes it on as what a rewriter throws.
package func wrapped<T>(_ body: () async throws -> T) async throws(AnyFailure) -> T {
  do { return try await body() } catch { throw AnyFailure(error) }
}
