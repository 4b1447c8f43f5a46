//! The content of the database at the end.

use std::collections::BTreeMap;

use crate::checker::{Account, Expected, Stock};
use crate::cluster::{Cluster, Result};
use crate::record::Kind;
use crate::snapshots::TABLES;
use crate::writers::{ACCOUNTS, BALANCE};

/// `fleeting_from` is the first row written after the last deletion of its topic. `requests` is how many times a snapshot of
/// each table of the stock was requested; `None` without snapshots.
pub fn read(cluster: &Cluster, fleeting_from: i64, requests: Option<BTreeMap<i64, u32>>) -> Result<Expected> {
    let mut expected = Expected { sum: ACCOUNTS * BALANCE, ..Expected::default() };
    for row in rows(cluster, "SELECT journal_seq, kind, account_id, version FROM journal")? {
        let kind = Kind::parse(&row[1]).ok_or("a journal row of no kind")?;
        expected.journal.insert(number(&row[0])?, (kind, number(&row[2])?, number(&row[3])?));
    }
    for row in rows(cluster, "SELECT account_id, account, version, balance FROM account")? {
        let account = Account { account: number(&row[1])?, version: number(&row[2])?, balance: number(&row[3])? };
        expected.accounts.insert(number(&row[0])?, account);
    }
    for row in rows(cluster, "SELECT batch, count(*) FROM bulk GROUP BY batch")? {
        expected.bulk.insert(number(&row[0])?, number(&row[1])?);
    }
    for row in rows(cluster, "SELECT marker_id, records FROM marker")? {
        expected.markers.insert(number(&row[0])?, number(&row[1])?);
    }
    for row in rows(cluster, "SELECT page_id FROM page")? {
        expected.pages.insert(number(&row[0])?, ());
    }
    for row in rows(cluster, "SELECT page_id FROM page_ever")? {
        expected.pages_ever.insert(number(&row[0])?, ());
    }
    expected.truncates = number(&cluster.sql("SELECT count(*) FROM truncated")?)?;
    for row in rows(cluster, "SELECT document_id, is_refused FROM document_made")? {
        expected.documents.insert(number(&row[0])?, row[1] == "t");
    }
    for row in rows(cluster, "SELECT said_id, is_transactional FROM said")? {
        expected.messages.insert(number(&row[0])?, row[1] == "t");
    }
    for row in rows(cluster, &format!("SELECT fleeting_id FROM fleeting WHERE fleeting_id >= {fleeting_from}"))? {
        expected.fleeting.insert(number(&row[0])?);
    }
    if let Some(requests) = requests {
        let mut stock = Stock { requests, ..Stock::default() };
        for table in 1..=TABLES {
            for row in rows(cluster, &format!("SELECT stock_id, version FROM stock_{table}"))? {
                stock.rows.insert(number(&row[0])?, number(&row[1])?);
            }
        }
        expected.stock = Some(stock);
    }
    let sum = cluster.sql("SELECT sum(balance) FROM account")?;
    if expected.sum != number::<i64>(&sum)? {
        return Err(format!("the harness itself: {sum} in the database, not {}", expected.sum));
    }
    if expected.journal.len() < 100 {
        return Err(format!("the writers wrote almost nothing: {} rows of the journal", expected.journal.len()));
    }
    Ok(expected)
}

fn rows(cluster: &Cluster, sql: &str) -> Result<Vec<Vec<String>>> {
    let text = cluster.sql(sql)?;
    Ok(text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_number_that_is_none_is_an_error() {
        assert_eq!(super::number::<i64>("12"), Ok(12));
        assert!(super::number::<i64>("").is_err());
    }
}
