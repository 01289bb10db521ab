import Core

/// Why no data is made.
package enum SyntheticError: Failure {
  case badProfile(String)
  case cycle([String])
  case tooMany(String, rows: Int, possible: Int)
  case unsupported(StoreName, driver: String)
  case badLink(String)
  case destination(String)

  package var report: Report {
    switch self {
    case .badProfile(let why):
      Report("SYNTH-101", "the profile is not one: \(why)").remedy("learn it again with `salvor synthesize learn`")
    case .cycle(let tables):
      Report("SYNTH-102", "tables refer to each other in a circle: \(tables.joined(separator: ", "))")
        .remedy("take one of the references out of the profile")
    case .tooMany(let table, let rows, let possible):
      Report("SYNTH-103", "table \(table) is to have \(rows) rows, and its keys allow \(possible)").remedy(
        "ask for fewer, or for more of what it refers to")
    case .unsupported(let store, let driver):
      Report("SYNTH-104", "store \(store) is of driver '\(driver)', whose shape can't be learned", retry: .never)
        .remedy("name stores of tables with --store: SQLite and PostgreSQL")
    case .badLink(let text):
      Report("SYNTH-105", "'\(text)' is no link between columns that are there")
        .remedy("write it store:table.column=store:table.column")
    case .destination(let path):
      Report("SYNTH-106", "\(path) is there already").remedy("name a directory that does not exist yet")
    }
  }
}
