import DriverKit
import Testing

@Suite("Statements of scripts") struct ScriptStatementsTests {
  private func lines(_ script: String, _ dialect: ScriptStatements.Dialect) -> [String] {
    ScriptStatements.split(script, dialect).map {
      "\($0.line): \($0.text.split(separator: "\n").joined(separator: " "))"
    }
  }

  @Test func `semicolons in strings, names, comments and dollar quotes end nothing`() {
    let script = """
      -- a; comment
      SELECT 'it''s; one', "na;me", $1; /* b; /* nested; */ ; */
      CREATE FUNCTION f() AS $body$ BEGIN; x := $$;$$; END $body$;
      SELECT E'\\';', e'\\\\', 'C:\\'; SELECT a$1;b

      ;;
      LAST
      """
    #expect(
      lines(script, .postgreSQL)
        == [
          "2: SELECT 'it''s; one', \"na;me\", $1",
          "3: CREATE FUNCTION f() AS $body$ BEGIN; x := $$;$$; END $body$",
          "4: SELECT E'\\';', e'\\\\', 'C:\\'", "4: SELECT a$1", "4: b", "7: LAST",
        ], "\(lines(script, .postgreSQL))")
  }

  @Test func `MariaDB escapes with backslashes, quotes with backticks, and changes its delimiter`() {
    let script = """
      # a; comment
      SELECT 'a\\';b', `c;d`; /*!40101 SET x=1 */;
      DELIMITER //
      CREATE TRIGGER t BEGIN SELECT 1; SELECT 2; END//
      delimiter ;
      SELECT 3
      """
    #expect(
      lines(script, .mariaDB) == [
        "2: SELECT 'a\\';b', `c;d`", "2: /*!40101 SET x=1 */", "4: CREATE TRIGGER t BEGIN SELECT 1; SELECT 2; END",
        "6: SELECT 3",
      ], "\(lines(script, .mariaDB))")
  }

  @Test(arguments: ["", " ;; ; ", "-- only", "/* never closed", "'never closed", "$a$ never", "E'\\", "$", "a$"])
  func `what ends early ends`(_ script: String) {
    for dialect in [ScriptStatements.Dialect.postgreSQL, .mariaDB] {
      #expect(ScriptStatements.split(script, dialect).count <= 1)
    }
  }
}
