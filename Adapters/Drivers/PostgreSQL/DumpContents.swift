import Core
import DriverKit

/// A dump's table of contents, as `pg_restore --list --verbose` prints it.
///
/// Entries are chosen by numbers: the class and the object of what an entry makes, and which entries it depends on. Names are for
/// people; they may hold anything, and the list puts no quotes around them.
///
/// Source: PostgreSQL 15, src/bin/pg_dump/pg_backup_archiver.c, PrintTOCSummary.
struct DumpContents: Sendable, Equatable {
  struct Entry: Sendable, Equatable {
    var number: Int
    /// 0 for what is no object of its own: data, comments, rights.
    var classID: UInt32
    var objectID: UInt32
    /// What it is, where, called what, whose.
    var text: String
    var needs: [Int] = []

    var key: String { "\(classID):\(objectID)" }
  }

  var entries: [Entry] = []

  /// - Throws: ``DumpError/unreadable(_:)``
  init(_ listing: String) throws(DumpError) {
    for line in listing.split(separator: "\n") {
      if line.hasPrefix(";\tdepends on:"), !entries.isEmpty {
        entries[entries.count - 1].needs = line.split(separator: " ").compactMap { Int($0) }
      } else if !line.hasPrefix(";") {
        let parts = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false)
        guard parts.count == 4, parts[0].hasSuffix(";"), let number = Int(parts[0].dropLast()),
          let classID = UInt32(parts[1]), let objectID = UInt32(parts[2])
        else { throw .unreadable("a line of its table of contents is '\(line.prefix(200))'") }
        entries.append(Entry(number: number, classID: classID, objectID: objectID, text: String(parts[3])))
      }
    }
    guard !entries.isEmpty else { throw .unreadable("its table of contents is empty") }
  }

  /// Classes of what a database keeps its tables in, of which a part of a dump brings no more than was asked for.
  private static let ofTables: Set<UInt32> = [1259, 2606, 2604, 2618, 2620, 3256, 3381]
  private static let schemas: UInt32 = 2615

  /// Everything that belongs to `tables`.
  ///
  /// - Parameters:
  ///   - isPresent: Whether a table, as a statement spells it, is where these go; a constraint that points to it is made then.
  ///   - makesDatabase: What the tables need goes along: types, functions, extensions.
  ///   - missingSchemas: Schemas that are made, by name.
  func choose(
    _ tables: [StoreDump.Table], isPresent: (String) -> Bool, makesDatabase: Bool, missingSchemas: Set<String>
  ) -> Set<Int> {
    let own = Set(tables.map(\.sql))
    let left = Set(
      tables.flatMap { table in table.links.filter { !own.contains($0.target) && !isPresent($0.target) }.map(\.member) }
    )
    let members = Set(tables.flatMap(\.members)).subtracting(left)
    // Data and row security are entries of no class, with the number of their table.
    let relations = Set(members.filter { $0.hasPrefix("1259:") }.map { "0:" + $0.dropFirst(5) })
    let schemas = Set(
      tables.filter { missingSchemas.contains($0.schema) }.map { "\(Self.schemas):\($0.schemaID)" })
    var chosen = Set(entries.filter { members.contains($0.key) || relations.contains($0.key) }.map(\.number))
    let byNumber = Dictionary(entries.map { ($0.number, $0) }, uniquingKeysWith: { first, _ in first })
    func isWanted(_ entry: Entry) -> Bool {
      if entry.classID == Self.schemas { return makesDatabase || schemas.contains(entry.key) }
      return makesDatabase && entry.classID != 0 && !Self.ofTables.contains(entry.classID)
    }
    var before = -1
    while before != chosen.count {
      before = chosen.count
      for number in chosen {
        for need in byNumber[number]?.needs ?? [] {
          if let entry = byNumber[need], isWanted(entry) { chosen.insert(need) }
        }
      }
      for entry in entries where entry.key == "0:0" && !entry.needs.isEmpty {
        if entry.needs.allSatisfy({ chosen.contains($0) || byNumber[$0] == nil }),
          entry.needs.contains(where: { chosen.contains($0) })
        {
          chosen.insert(entry.number)
        }
      }
    }
    return chosen
  }

  /// What leans on what is chosen, and is not: by name, for people.
  func left(of chosen: Set<Int>) -> [String] {
    entries.filter { entry in !chosen.contains(entry.number) && entry.needs.contains { chosen.contains($0) } }.map {
      $0.text
    }
  }

  /// What pg_restore reads of them, beside the table of contents.
  func files(of chosen: Set<Int>) -> [String] {
    entries.filter { chosen.contains($0.number) && $0.classID == 0 }.map { "\($0.number).dat" }
  }
}
